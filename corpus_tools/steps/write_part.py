"""One part of the output: the documents of some shards, less duplicates, written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from itertools import groupby
from operator import attrgetter
from pathlib import Path

import numpy as np
import numpy.typing as npt

from corpus_tools.documents import CleanedArticle, PartSummary
from corpus_tools.files.shard_file import open_shard
from corpus_tools.files.writers import Writers
from corpus_tools.filtering.deduplication import HASH_BYTES, Sameness, repeats
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
        # What one file was cut into is written as the file would be.
        for _, of_file in groupby(selections, attrgetter("sources")):
            with ExitStack() as shards:
                for selection in of_file:
                    _gather(selection, tables, shards)
                taken = tables.take()
            for future in waiting:
                future.result()  # no more than two files at a time
            waiting = [compressor.submit(writers.append, name, table) for name, table in taken.items()]
        for future in waiting:
            future.result()
    summary = tables.summary
    summary.files = writers.hashes()
    summary.hashes = b"".join(tables.hashes)
    return summary


def _gather(selection: Selection, tables: PartTables, shards: ExitStack) -> None:
    """Take a shard's articles into the tables, which look into the shard until they are taken."""
    articles, texts = shards.enter_context(open_shard(selection.shard))
    for together in _batches(articles, texts, selection):
        tables.add(together)
        together.clear()  # the texts cannot be unmapped while there are views of them


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
    ends = np.cumsum([len(part.hashes) // HASH_BYTES for part in parts])
    blocks = [partial(_pairs, part.hashes) for part in parts]
    repeated, _ = repeats(blocks, int(ends[-1]) if len(ends) else 0)
    of_part = np.searchsorted(ends, repeated, "right")
    starts = np.append(0, ends)[of_part]
    found: dict[int, set[int]] = {}
    for part, place in zip(of_part.tolist(), (repeated - starts).tolist(), strict=True):
        found.setdefault(part, set()).add(place)
    return {part: frozenset(found[part]) for part in sorted(found)}


def _pairs(hashes: bytes) -> npt.NDArray[np.uint64]:
    return np.frombuffer(hashes, np.uint64).reshape(-1, 2)
