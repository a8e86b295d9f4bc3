"""One part of the output: cleaned articles less duplicates, split into documents and written."""

from __future__ import annotations

import gc
import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from corpus_tools.characters import Kind, count_kinds, kinds_of, looks_simplified, taigi_score
from corpus_tools.deduplication import hash_text
from corpus_tools.documents import CleanedArticle
from corpus_tools.splitting import split_spans

DOCUMENT_SCHEMA = pa.schema(
    {
        "text": pa.string(),
        "title": pa.string(),
        "author": pa.string(),
        "source": pa.string(),
        "part": pa.int32(),
        "characters": pa.int32(),
        "taigi_score": pa.float32(),
    }
)
DROPPED_SCHEMA = pa.schema(
    {
        "source": pa.string(),
        "row": pa.int32(),
        "rows": pa.int32(),
        "title": pa.string(),
        "reason": pa.string(),
        "characters": pa.int32(),
        "text": pa.string(),
    }
)
TRAIN, VALIDATION, DUPLICATE = range(3)
_BIN = 128  # characters to a bar of the length histogram


class Selection(NamedTuple):
    """A shard's file of articles; each article's fate (bytes of TRAIN ...); each paragraph's 1 if a duplicate."""

    stored: Path
    fates: bytes
    duplicates: bytes


class PartSummary(msgspec.Struct):
    """What a part holds: files with their sizes and hashes, document hashes in order, counts."""

    files: dict[str, str]
    hashes: bytes
    documents: Counter[str]
    characters: Counter[str]
    rows_kept: int
    rows_dropped: Counter[str]
    characters_dropped: Counter[str]
    edges: int
    lengths: Counter[int]
    scores: Counter[int]
    unknown_private_use: Counter[str]
    replacement_characters: int = 0
    simplified_articles: int = 0


class _Columns:
    """Rows for a Parquet file, column by column."""

    def __init__(self, schema: pa.Schema) -> None:
        self.schema = schema
        self.values: list[list[Any]] = [[] for _ in schema.names]

    def append(self, *row: Any) -> None:
        for column, value in zip(self.values, row, strict=True):
            column.append(value)

    def take(self) -> pa.Table:
        arrays = [_array(v, f.type) for v, f in zip(self.values, self.schema, strict=True)]
        self.values = [[] for _ in self.schema.names]
        return pa.Table.from_arrays(arrays, schema=self.schema)


def _array(values: list[Any], kind: pa.DataType) -> pa.Array:
    """An Arrow array from its buffers: `pa.array` would import pandas, which takes longer than a shard."""
    if kind == pa.string():
        data = [value.encode() for value in values]
        offsets = np.zeros(len(data) + 1, np.int32)
        np.cumsum([len(d) for d in data], out=offsets[1:])
        buffers = [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(data))]
    else:
        buffers = [None, pa.py_buffer(np.array(values, kind.to_pandas_dtype()))]
    return pa.Array.from_buffers(kind, len(values), buffers)


def write_part(
    selections: Sequence[Selection],
    stem: Path,
    *,
    min_chars: int,
    max_chars: int,
    min_taigi_score: float,
    jsonl: bool,
    repeated: frozenset[int] = frozenset(),
) -> PartSummary:
    """Write `stem`.train, `stem`.validation and `stem`.dropped for some shards; `repeated` documents are left out."""
    summary = PartSummary(
        {}, b"", Counter(), Counter(), 0, Counter(), Counter(), 0, Counter(), Counter(), Counter()
    )
    writers: dict[str, Any] = {}
    columns = {name: _Columns(DOCUMENT_SCHEMA) for name in ("train", "validation")}
    columns["dropped"] = _Columns(DROPPED_SCHEMA)
    hashes: list[bytes] = []
    gc_was_on = gc.isenabled()
    gc.disable()  # plain records by the ten thousand: nothing for the collector to find
    for selection in selections:
        articles = msgspec.msgpack.decode(selection.stored.read_bytes(), type=list[CleanedArticle])
        at = 0
        for article, fate in zip(articles, selection.fates, strict=True):
            marks = selection.duplicates[at : at + len(article.first_rows)]
            at += len(marks)
            for cut in article.cuts:
                _drop(columns["dropped"], summary, article, *msgspec.structs.astuple(cut))
            _finish(
                article,
                fate,
                marks,
                columns,
                summary,
                hashes,
                repeated,
                (min_chars, max_chars),
                min_taigi_score,
            )
        del articles
        for name, rows in columns.items():
            if rows.values[0]:
                _append(writers, name, stem, rows.take(), jsonl)
    if gc_was_on:
        gc.enable()
    for name, writer in writers.items():
        writer.close()
        path = _path(stem, name)
        summary.files[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    summary.hashes = b"".join(hashes)
    return summary


def _path(stem: Path, name: str) -> Path:
    return stem.with_name(f"{stem.name}.{name}")


def _append(writers: dict[str, Any], name: str, stem: Path, table: pa.Table, jsonl: bool) -> None:
    if jsonl and name != "dropped":
        if name not in writers:
            writers[name] = _path(stem, name).open("wb")
        writers[name].write(b"".join(msgspec.json.encode(row) + b"\n" for row in table.to_pylist()))
        return
    if name not in writers:
        path = _path(stem, name)
        writers[name] = pq.ParquetWriter(path, table.schema, compression="zstd", use_dictionary=False)
    writers[name].write_table(table)


def _drop(
    dropped: _Columns,
    summary: PartSummary,
    article: CleanedArticle,
    row: int,
    rows: int,
    reason: str,
    text: str,
) -> None:
    dropped.append(article.source, row, rows, article.title, reason, len(text), text)
    summary.rows_dropped[reason] += rows
    summary.characters_dropped[reason] += len(text)


def _finish(
    article: CleanedArticle,
    fate: int,
    marks: bytes,
    columns: dict[str, _Columns],
    summary: PartSummary,
    hashes: list[bytes],
    repeated: frozenset[int],
    limits: tuple[int, int],
    min_taigi_score: float,
) -> None:
    """Split one article into documents; every paragraph goes to a document or to the dropped ones."""
    dropped = columns["dropped"]
    rows, counts = article.first_rows, article.row_counts
    kept_before = sum(c for r, c in summary.characters_dropped.items() if r in _OF_PARAGRAPHS)
    if fate == DUPLICATE:
        if rows:
            _drop(dropped, summary, article, rows[0], sum(counts), "duplicate_article", article.text.decode())
        summary.edges += article.characters - _lost(article, summary, kept_before)
        return
    text = article.text.decode()
    if any(marks):
        paragraphs = text.split("\n")
        for paragraph, row, count, mark in zip(paragraphs, rows, counts, marks, strict=True):
            if mark:
                _drop(dropped, summary, article, row, count, "duplicate_paragraph", paragraph)
        keep = [i for i, mark in enumerate(marks) if not mark]
        text = "\n".join([paragraphs[i] for i in keep])
        rows, counts = [rows[i] for i in keep], [counts[i] for i in keep]
    kinds = kinds_of(text)
    article_counts = np.zeros(len(Kind), np.int64)
    name = "validation" if fate == VALIDATION else "train"
    split, kept = columns[name], 0
    reasons: list[tuple[int, int, str]] = []
    for part, (start, end) in enumerate(split_spans(text, *limits)):
        piece = text[start:end]
        counts_of_piece = count_kinds(kinds[start:end])
        article_counts += counts_of_piece
        score = taigi_score(counts_of_piece)
        reason = ""
        if len(piece) < limits[0]:
            reason = "too_short"
        elif score < min_taigi_score:
            reason = "not_taigi"
        else:
            if len(hashes) in repeated:
                reason = "duplicate_document"
            hashes.append(hash_text(piece))
        if reason:
            reasons.append((start, end, reason))
            continue
        split.append(piece, article.title, article.author, article.source, part, len(piece), score)
        kept += len(piece)
        summary.documents[name] += 1
        summary.lengths[len(piece) // _BIN * _BIN] += 1
        summary.scores[int(score * 20)] += 1
    _count_rarities(text, article_counts, summary)
    summary.characters[name] += kept
    summary.rows_kept += sum(counts)
    if reasons:
        _drop_pieces(article, text, reasons, text.split("\n"), rows, counts, dropped, summary)
    summary.edges += article.characters - kept - _lost(article, summary, kept_before)


def _count_rarities(text: str, counts: npt.NDArray[np.int64], summary: PartSummary) -> None:
    summary.simplified_articles += looks_simplified(counts)
    summary.replacement_characters += int(counts[Kind.REPLACEMENT])
    if counts[Kind.PRIVATE]:
        private = [f"U+{ord(c):04X}" for c in text if "\ue000" <= c <= "\uf8ff" or c >= "\U000f0000"]
        summary.unknown_private_use.update(private)


_OF_PARAGRAPHS = ("duplicate_article", "duplicate_paragraph", "too_short", "not_taigi", "duplicate_document")


def _lost(article: CleanedArticle, summary: PartSummary, before: int) -> int:
    """Characters of this article dropped since `before` were, and those that decontamination took."""
    after = sum(c for r, c in summary.characters_dropped.items() if r in _OF_PARAGRAPHS)
    return after - before + sum(len(c.text) for c in article.cuts if c.reason == "contaminated")


def _drop_pieces(
    article: CleanedArticle,
    text: str,
    pieces: Sequence[tuple[int, int, str]],
    paragraphs: Sequence[str],
    rows: Sequence[int],
    counts: Sequence[int],
    dropped: _Columns,
    summary: PartSummary,
) -> None:
    """Drop pieces; the rows that begin in a piece's paragraphs go with it, unless the paragraph began before."""
    starts, at = [], 0
    for paragraph in paragraphs:
        starts.append(at)
        at += len(paragraph) + 1
    for start, end, reason in pieces:
        inside = [i for i, s in enumerate(starts) if start <= s < end]
        first = inside[0] if inside else max(i for i, s in enumerate(starts) if s <= start)
        gone = sum(counts[i] for i in inside)
        _drop(dropped, summary, article, rows[first], gone, reason, text[start:end])
        summary.rows_kept -= gone
