"""What becomes of the articles of a part: rows of the tables to write, and counts in which nothing is lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import pyarrow as pa

from corpus_tools.deduplication import hash_bytes
from corpus_tools.documents import CleanedArticle
from corpus_tools.kinds import Found, looks_simplified, score_spans
from corpus_tools.splitting import split_spans
from corpus_tools.tables import DOCUMENT_SCHEMA, DROPPED_SCHEMA, Columns

TRAIN, VALIDATION, DUPLICATE = range(3)
_BIN = 128  # characters to a bar of the length histogram


class Limits(NamedTuple):
    """What a document must have: so many characters, and at least this Taigi score."""

    min_chars: int
    max_chars: int
    min_taigi_score: float


class PartSummary(msgspec.Struct):
    """What a part holds: files and their sha256, document hashes in order, counts."""

    files: dict[str, str] = msgspec.field(default_factory=dict)
    hashes: bytes = b""
    documents: Counter[str] = msgspec.field(default_factory=Counter)
    characters: Counter[str] = msgspec.field(default_factory=Counter)
    rows_kept: int = 0
    rows_dropped: Counter[str] = msgspec.field(default_factory=Counter)
    characters_dropped: Counter[str] = msgspec.field(default_factory=Counter)
    edges: int = 0
    lengths: Counter[int] = msgspec.field(default_factory=Counter)
    scores: Counter[int] = msgspec.field(default_factory=Counter)
    unknown_private_use: Counter[str] = msgspec.field(default_factory=Counter)
    replacement_characters: int = 0
    simplified_articles: int = 0


class _Piece(NamedTuple):
    """Characters `start` to `end` of a text, which are no document, and why."""

    start: int
    end: int
    reason: str


class Harvest:
    """Gathers articles; documents whose place in the part's order is in `repeated` are left out."""

    def __init__(self, limits: Limits, repeated: frozenset[int]) -> None:
        self.limits = limits
        self.repeated = repeated
        self.summary = PartSummary()
        self.hashes: list[bytes] = []
        self._tables = {name: Columns(DOCUMENT_SCHEMA) for name in ("train", "validation")}
        self._tables["dropped"] = Columns(DROPPED_SCHEMA)

    def take(self) -> dict[str, pa.Table]:
        """The tables that have rows, which are then forgotten."""
        return {name: rows.take() for name, rows in self._tables.items() if rows.values[0]}

    def add(self, article: CleanedArticle, data: memoryview, fate: int, duplicates: bytes) -> None:
        """Split an article into documents, given its text in UTF-8, its fate and which of its paragraphs repeat."""
        for cut in article.cuts:
            self._drop(article, cut.row, cut.rows, cut.reason, len(cut.text), cut.text)
        lost = sum([len(cut.text) for cut in article.cuts if cut.reason == "contaminated"])
        if fate == DUPLICATE:
            rows = sum(article.row_counts)
            self._drop(article, article.first_rows[0], rows, "duplicate_article", article.length, data)
            lost += article.length
        else:
            text = str(data, "utf-8")
            if any(duplicates):
                text, repeating = self._without(article, text, duplicates)
                lost += repeating
            lost += self._split(article, text, "validation" if fate == VALIDATION else "train")
        self.summary.edges += article.characters - lost

    def _drop(
        self,
        article: CleanedArticle,
        row: int,
        rows: int,
        reason: str,
        characters: int,
        text: str | memoryview,
    ) -> None:
        dropped = self._tables["dropped"]
        dropped.append(article.source, row, rows, article.title, reason, characters, text)
        self.summary.rows_dropped[reason] += rows
        self.summary.characters_dropped[reason] += characters

    def _without(self, article: CleanedArticle, text: str, duplicates: bytes) -> tuple[str, int]:
        """The text without the paragraphs that repeat, which leave `article` too; and these paragraphs' characters."""
        paragraphs = text.split("\n")
        rows, counts, lost = article.first_rows, article.row_counts, 0
        for i in [i for i, repeats in enumerate(duplicates) if repeats]:
            self._drop(article, rows[i], counts[i], "duplicate_paragraph", len(paragraphs[i]), paragraphs[i])
            lost += len(paragraphs[i])
        kept = [i for i, repeats in enumerate(duplicates) if not repeats]
        article.first_rows = [rows[i] for i in kept]
        article.row_counts = [counts[i] for i in kept]
        return "\n".join([paragraphs[i] for i in kept]), lost

    def _split(self, article: CleanedArticle, text: str, name: str) -> int:
        """Each piece of a text goes to a split or to what is dropped; the characters of both."""
        split, summary = self._tables[name], self.summary
        least, most, least_score = self.limits
        spans = list(split_spans(text, least, most))
        scores, found = score_spans(text, spans)
        left_out: list[_Piece] = []
        kept = lost = 0
        for part, ((start, end), score) in enumerate(zip(spans, scores, strict=True)):
            characters = end - start
            data, reason = b"", ""
            if characters < least:
                reason = "too_short"
            elif score < least_score:
                reason = "not_taigi"
            else:
                data = text[start:end].encode()
                if len(self.hashes) in self.repeated:
                    reason = "duplicate_document"
                self.hashes.append(hash_bytes(data))
            if reason:
                left_out.append(_Piece(start, end, reason))
                lost += characters
                continue
            split.append(data, article.title, article.author, article.source, part, characters, score)
            kept += characters
            summary.lengths[characters // _BIN * _BIN] += 1
            summary.scores[int(score * 20)] += 1
        summary.documents[name] += len(spans) - len(left_out)
        summary.characters[name] += kept
        summary.rows_kept += sum(article.row_counts)
        self._count_rarities(text, found)
        if left_out:
            self._leave_out(article, text, left_out)
        return kept + lost

    def _count_rarities(self, text: str, found: Found) -> None:
        self.summary.simplified_articles += found.simplified and looks_simplified(text)
        if found.rare:
            self.summary.replacement_characters += text.count("\ufffd")
            private = [f"U+{ord(c):04X}" for c in text if "\ue000" <= c <= "\uf8ff" or c >= "\U000f0000"]
            self.summary.unknown_private_use.update(private)

    def _leave_out(self, article: CleanedArticle, text: str, pieces: Sequence[_Piece]) -> None:
        """Drop pieces; the rows that begin in their paragraphs go with them, unless the paragraph began before."""
        starts, at = [], 0
        for paragraph in text.split("\n"):
            starts.append(at)
            at += len(paragraph) + 1
        for start, end, reason in pieces:
            inside = [i for i, s in enumerate(starts) if start <= s < end]
            first = inside[0] if inside else max(i for i, s in enumerate(starts) if s <= start)
            rows = sum(article.row_counts[i] for i in inside)
            self._drop(article, article.first_rows[first], rows, reason, end - start, text[start:end])
            self.summary.rows_kept -= rows
