"""What becomes of the articles of a part: rows of the tables to write, and counts in which nothing is lost."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate, compress
from typing import NamedTuple

import pyarrow as pa

from corpus_tools.cleaning.language import OLD_FONT, SCRIPTS, Found, looks_simplified
from corpus_tools.cleaning.mojibake import PAIR
from corpus_tools.documents import CleanedArticle, PartSummary
from corpus_tools.files.writers import DOCUMENT_SCHEMA, DROPPED_SCHEMA, Rows
from corpus_tools.filtering.deduplication import Sameness, hash_bytes, key_of
from corpus_tools.filtering.segments import Limits, Piece, cut_texts
from corpus_tools.steps.select import DUPLICATE, VALIDATION

_GARBLED = (
    0.02  # of its characters have no meaning in Unicode: a text from a font of its own, wrongly converted
)
_BIN = 128  # characters to a bar of the length histogram


class Given(NamedTuple):
    """An article, its text in UTF-8, its fate, and for each of its paragraphs 1 if it repeats an earlier one."""

    article: CleanedArticle
    data: memoryview
    fate: int
    duplicates: bytes


class PartTables:
    """The tables of a part; documents whose place in the part's order is in `repeated` are left out."""

    def __init__(self, limits: Limits, repeated: frozenset[int], duplicates: Sameness = "exact") -> None:
        self.limits = limits
        self.repeated = repeated
        self._key = key_of(duplicates)
        self.summary = PartSummary()
        self.hashes: list[bytes] = []
        self._tables = {name: Rows(DOCUMENT_SCHEMA) for name in ("train", "validation")}
        self._tables["dropped"] = Rows(DROPPED_SCHEMA)

    def take(self) -> dict[str, pa.Table]:
        """The tables that have rows, which are then forgotten."""
        return {name: table.take() for name, table in self._tables.items() if table.rows}

    def add(self, given: Sequence[Given]) -> None:
        """Take the documents of some articles, whose characters are looked up together."""
        parted = [_part_repeating(article, data, duplicates) for article, data, _, duplicates in given]
        texts = [
            "" if fate == DUPLICATE else str(data, "utf-8")
            for (_, _, fate, _), (data, _) in zip(given, parted, strict=True)
        ]
        cut = cut_texts(texts, self.limits)
        for (article, _, fate, _), (data, repeating), text, (pieces, found) in zip(
            given, parted, texts, cut, strict=True
        ):
            for c in article.cuts:
                self._drop(article, c.row, c.rows, c.reason, len(c.text), c.text)
            lost = sum([len(c.text) for c in article.cuts if c.reason == "contaminated"])
            if fate == DUPLICATE:
                rows = sum(article.row_counts)
                self._drop(article, article.first_rows[0], rows, "duplicate_article", article.length, data)
                lost += article.length
            else:
                for row, rows, paragraph in repeating:
                    characters = len(paragraph.decode())
                    self._drop(article, row, rows, "duplicate_paragraph", characters, paragraph)
                    lost += characters
                lost += self._share_out(
                    article, data, pieces, "validation" if fate == VALIDATION else "train"
                )
                self._count_oddities(article, text, found)
            self.summary.edges += article.characters - lost

    def _drop(
        self,
        article: CleanedArticle,
        row: int,
        rows: int,
        reason: str,
        characters: int,
        text: str | bytes | memoryview,
    ) -> None:
        row_dropped = (article.source, row, rows, article.title, reason, characters, text)
        self._tables["dropped"].rows.append(row_dropped)
        self.summary.rows_dropped[reason] += rows
        self.summary.characters_dropped[reason] += characters

    def _share_out(
        self, article: CleanedArticle, data: memoryview, pieces: Sequence[Piece], name: str
    ) -> int:
        """Each piece of a text goes to a split or to what is dropped; the characters of both."""
        split, summary = self._tables[name].rows, self.summary
        names = (article.title, article.author, article.source)
        left_out: list[tuple[Piece, str]] = []
        kept = lost = 0
        of_source = summary.sources.setdefault(article.source, Counter())
        for part, piece in enumerate(pieces):
            characters, reason = piece.end - piece.start, piece.reason
            document = data[piece.at : piece.at + piece.size]
            if not reason:
                if len(self.hashes) in self.repeated:
                    reason = "duplicate_document"
                self.hashes.append(hash_bytes(self._key(document)))
            if reason:
                left_out.append((piece, reason))
                lost += characters
                continue
            split.append((document, *names, part, characters, piece.score))
            kept += characters
            of_source[SCRIPTS[piece.script]] += characters
            summary.lengths[characters // _BIN * _BIN] += 1
            summary.scores[int(piece.score * 20)] += 1
        summary.documents[name] += len(pieces) - len(left_out)
        summary.characters[name] += kept
        of_source["documents"] += len(pieces) - len(left_out)
        of_source["kept"] += kept
        summary.rows_kept += sum(article.row_counts)
        if left_out:
            self._leave_out(article, str(data, "utf-8"), left_out)
        return kept + lost

    def _count_oddities(self, article: CleanedArticle, text: str, signs: Found) -> None:
        self.summary.simplified_articles += signs.simplified and looks_simplified(text)
        if signs.rare:
            self.summary.replacement_characters += text.count("\ufffd")
            private = [f"U+{ord(c):04X}" for c in text if "\ue000" <= c <= "\uf8ff" or c >= "\U000f0000"]
            self.summary.unknown_private_use.update(private)
            odd = len(private) + text.count("\ufffd") + sum(map(text.count, OLD_FONT))
            misread = 2 * len(PAIR.findall(text))
            if max(odd, misread) >= _GARBLED * len(text):
                found = {"source": article.source, "title": article.title}
                found["share"] = f"{max(odd, misread) / len(text):.1%}"
                # Signs of an old font stand in pairs by chance; of UTF-8 nearly all do.
                self.summary.garbled.append(found | ({"rule": "mojibake"} if misread > odd / 2 else {}))

    def _leave_out(self, article: CleanedArticle, text: str, pieces: Sequence[tuple[Piece, str]]) -> None:
        """Drop pieces; the rows that begin in their paragraphs go with them, unless the paragraph began before."""
        starts = list(accumulate((len(paragraph) + 1 for paragraph in text.split("\n")), initial=0))[:-1]
        for (start, end, *_), reason in pieces:
            first, behind = bisect_left(starts, start), bisect_left(starts, end)
            rows = sum(article.row_counts[first:behind])
            if first == behind:
                first = bisect_right(starts, start) - 1
            self._drop(article, article.first_rows[first], rows, reason, end - start, text[start:end])
            self.summary.rows_kept -= rows


def _part_repeating(
    article: CleanedArticle, data: memoryview, duplicates: bytes
) -> tuple[memoryview, list[tuple[int, int, bytes]]]:
    """The text without the paragraphs that are duplicates, and those paragraphs as (first row, rows, text).

    Their rows are taken out of `article.first_rows` and `article.row_counts`.
    """
    if not any(duplicates):
        return data, []
    paragraphs = bytes(data).split(b"\n")
    rows, counts = article.first_rows, article.row_counts
    repeating = list(compress(zip(rows, counts, paragraphs, strict=True), duplicates))
    kept = [not repeats for repeats in duplicates]
    article.first_rows = list(compress(rows, kept))
    article.row_counts = list(compress(counts, kept))
    return memoryview(b"\n".join(compress(paragraphs, kept))), repeating
