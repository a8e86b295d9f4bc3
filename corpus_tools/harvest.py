"""What becomes of the articles of a part: rows of the tables to write, and counts in which nothing is lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import msgspec
import pyarrow as pa

from corpus_tools.articles import Limits, cut_documents
from corpus_tools.documents import CleanedArticle, Document
from corpus_tools.tables import DOCUMENT_SCHEMA, DROPPED_SCHEMA, Columns

TRAIN, VALIDATION, DUPLICATE = range(3)
_BIN = 128  # characters to a bar of the length histogram


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

    def add(self, article: CleanedArticle, text: memoryview, fate: int, duplicates: bytes) -> None:
        """Sort an article's documents, given its text in UTF-8, its fate and which of its paragraphs repeat."""
        for cut in article.cuts:
            self._drop(article, cut.row, cut.rows, cut.reason, len(cut.text), cut.text)
        lost = sum([len(cut.text) for cut in article.cuts if cut.reason == "contaminated"])
        if fate == DUPLICATE:
            rows = sum(article.row_counts)
            self._drop(article, article.first_rows[0], rows, "duplicate_article", article.length, text)
            lost += article.length
        else:
            if any(duplicates):
                article, text, dropped = self._without(article, text, duplicates)
                lost += dropped
            lost += self._sort(article, text, "validation" if fate == VALIDATION else "train")
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

    def _without(
        self, article: CleanedArticle, text: memoryview, duplicates: bytes
    ) -> tuple[CleanedArticle, memoryview, int]:
        """The article cut anew without the paragraphs that repeat, and how many characters these are."""
        paragraphs = str(text, "utf-8").split("\n")
        rows, counts, lost = article.first_rows, article.row_counts, 0
        for paragraph, row, count, repeats in zip(paragraphs, rows, counts, duplicates, strict=True):
            if repeats:
                self._drop(article, row, count, "duplicate_paragraph", len(paragraph), paragraph)
                lost += len(paragraph)
        kept = [i for i, repeats in enumerate(duplicates) if not repeats]
        data, pieces = cut_documents("\n".join([paragraphs[i] for i in kept]), self.limits)
        changes = {"first_rows": [rows[i] for i in kept], "row_counts": [counts[i] for i in kept]}
        return msgspec.structs.replace(article, pieces=pieces, **changes), memoryview(data), lost

    def _sort(self, article: CleanedArticle, text: memoryview, name: str) -> int:
        """Each document goes to a split or to what is dropped; the characters of both."""
        split, summary, pieces = self._tables[name], self.summary, article.pieces
        left_out: list[Document] = []
        kept = lost = 0
        for part, document in enumerate(pieces.documents):
            if not document.reason:
                if len(self.hashes) in self.repeated:
                    document.reason = "duplicate_document"
                self.hashes.append(document.hash)
            characters, score = document.characters, document.taigi_score
            if document.reason:
                left_out.append(document)
                lost += characters
                continue
            data = text[document.start : document.end]
            split.append(data, article.title, article.author, article.source, part, characters, score)
            kept += characters
            summary.lengths[characters // _BIN * _BIN] += 1
            summary.scores[int(score * 20)] += 1
        summary.documents[name] += len(pieces.documents) - len(left_out)
        summary.characters[name] += kept
        summary.rows_kept += sum(article.row_counts)
        summary.simplified_articles += pieces.simplified
        summary.replacement_characters += pieces.replacement_characters
        summary.unknown_private_use.update(pieces.unknown_private_use)
        if left_out:
            self._leave_out(article, text, left_out)
        return kept + lost

    def _leave_out(self, article: CleanedArticle, text: memoryview, documents: Sequence[Document]) -> None:
        """Drop documents; the rows that begin in their paragraphs go with them, unless the paragraph began before."""
        starts, at = [], 0
        for paragraph in bytes(text).split(b"\n"):
            starts.append(at)
            at += len(paragraph) + 1
        for document in documents:
            inside = [i for i, start in enumerate(starts) if document.start <= start < document.end]
            first = inside[0] if inside else max(i for i, s in enumerate(starts) if s <= document.start)
            rows = sum(article.row_counts[i] for i in inside)
            data = text[document.start : document.end]
            row = article.first_rows[first]
            self._drop(article, row, rows, document.reason, document.characters, data)
            self.summary.rows_kept -= rows
