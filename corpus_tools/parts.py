"""One part of the output: cleaned articles less duplicates, split into documents and written."""

from __future__ import annotations

import gc
import hashlib
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from corpus_tools.characters import Kind, count_kinds, kinds_of, looks_simplified, taigi_score
from corpus_tools.deduplication import hash_bytes
from corpus_tools.documents import CleanedArticle
from corpus_tools.splitting import split_spans
from corpus_tools.tables import DOCUMENT_SCHEMA, DROPPED_SCHEMA, Columns, append_table, path_of

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
    columns = {name: Columns(DOCUMENT_SCHEMA) for name in ("train", "validation")}
    columns["dropped"] = Columns(DROPPED_SCHEMA)
    hashes: list[bytes] = []
    limits = (min_chars, max_chars)
    gc_was_on = gc.isenabled()
    gc.disable()  # plain records by the ten thousand: nothing for the collector to find
    with ThreadPoolExecutor(1) as compressor:  # compression leaves the interpreter to the next articles
        tables: list[Future[None]] = []
        for selection in selections:
            articles = msgspec.msgpack.decode(selection.stored.read_bytes(), type=list[CleanedArticle])
            at = 0
            for article, fate in zip(articles, selection.fates, strict=True):
                marks = selection.duplicates[at : at + len(article.first_rows)]
                at += len(marks)
                for cut in article.cuts:
                    _drop(columns["dropped"], summary, article, *msgspec.structs.astuple(cut))
                _finish(article, fate, marks, columns, summary, hashes, repeated, limits, min_taigi_score)
            del articles
            for table in tables:
                table.result()
            filled = {name: rows.take() for name, rows in columns.items() if rows.values[0]}
            tables = [
                compressor.submit(append_table, writers, name, stem, t, jsonl) for name, t in filled.items()
            ]
        for table in tables:
            table.result()
    if gc_was_on:
        gc.enable()
    for name, writer in writers.items():
        writer.close()
        summary.files[name] = hashlib.sha256(path_of(stem, name).read_bytes()).hexdigest()
    summary.hashes = b"".join(hashes)
    return summary


def _drop(
    dropped: Columns,
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
    columns: dict[str, Columns],
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
            data = piece.encode()
            if len(hashes) in repeated:
                reason = "duplicate_document"
            hashes.append(hash_bytes(data))
        if reason:
            reasons.append((start, end, reason))
            continue
        split.append(data, article.title, article.author, article.source, part, len(piece), score)
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
    dropped: Columns,
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
