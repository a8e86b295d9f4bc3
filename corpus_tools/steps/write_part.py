"""One part of the output: the documents of some shards, less duplicates, written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa

from corpus_tools.documents import CleanedArticle, PartSummary
from corpus_tools.files.shard_file import open_shard
from corpus_tools.files.writers import Writers
from corpus_tools.filtering.deduplication import HASH_BYTES, Sameness, find_duplicates
from corpus_tools.filtering.segments import Limits
from corpus_tools.steps.executor import no_collector
from corpus_tools.steps.part_tables import Given, PartTables
from corpus_tools.steps.select import Selection

_AT_ONCE = 1 << 19  # bytes of text handled together


def write_part(
    selections: Sequence[Selection],
    stem: Path,
    *,
    limits: Limits,
    jsonl: bool,
    duplicates: Sameness = "exact",
    repeated: frozenset[int] = frozenset(),
) -> PartSummary:
    """Write `stem`.train, `stem`.validation and `stem`.dropped for some shards; `repeated` documents are left out."""
    tables = PartTables(limits, repeated, duplicates)
    # Compression leaves the interpreter to the next shard's articles.
    with no_collector(), Writers(stem, jsonl) as writers, ThreadPoolExecutor(1) as compressor:
        waiting: list[Future[None]] = []
        for selection in selections:
            of_shard = _gather(selection, tables)
            for future in waiting:
                future.result()  # no more than two shards at a time
            waiting = [compressor.submit(writers.append, name, table) for name, table in of_shard.items()]
        for future in waiting:
            future.result()
    summary = tables.summary
    summary.files = writers.hashes()
    summary.hashes = b"".join(tables.hashes)
    return summary


def _gather(selection: Selection, tables: PartTables) -> dict[str, pa.Table]:
    """The tables to be written for a shard."""
    with open_shard(selection.path, selection.ends) as (articles, texts):
        for together in _batches(articles, texts, selection):
            tables.add(together)
            together.clear()  # the texts cannot be unmapped while there are views of them
        return tables.take()


def _batches(
    articles: Sequence[CleanedArticle], texts: memoryview, selection: Selection
) -> Iterator[list[Given]]:
    """A shard's articles, in batches so large that what is done once for each takes a negligible part of the time."""
    together: list[Given] = []
    text = mark = size = 0
    for article, fate in zip(articles, selection.fates, strict=True):
        marks = selection.duplicates[mark : mark + len(article.first_rows)]
        together.append(Given(article, texts[text : text + article.size], fate, marks))
        mark += len(marks)
        text += article.size
        size += article.size
        if size >= _AT_ONCE:
            yield together
            together, size = [], 0
    yield together


def repeated_documents(parts: Sequence[PartSummary]) -> dict[int, frozenset[int]]:
    """The documents of each part that an earlier one has, by their place in the part; only parts with such."""
    repeated = find_duplicates(b"".join(p.hashes for p in parts))
    found: dict[int, frozenset[int]] = {}
    at = 0
    for i, part in enumerate(parts):
        end = at + len(part.hashes) // HASH_BYTES
        if repeated[at:end].any():
            found[i] = frozenset(np.flatnonzero(repeated[at:end]).tolist())
        at = end
    return found
