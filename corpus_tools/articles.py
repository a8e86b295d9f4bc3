"""One article: the rules applied and counted, rows matched to its paragraphs, its documents cut, scored and hashed."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter
from typing import NamedTuple

import numpy as np

from corpus_tools.characters import (
    TAIGI_MARKERS,
    Kind,
    census,
    count_kinds,
    kinds_of,
    looks_simplified,
    taigi_score,
)
from corpus_tools.cleaning import Step, clean_steps
from corpus_tools.decontamination import QuestionNgrams, drop_overlaps
from corpus_tools.deduplication import hash_bytes
from corpus_tools.documents import Article, CleanedArticle, Cut, Document, Pieces, Tally
from corpus_tools.splitting import split_spans

SAMPLES = 4  # of a rule, a shard
_OWN_RIGHT = frozenset("台个庄才干里欲娘" + TAIGI_MARKERS)
_EMPTY_LINE = re.compile("\n\n")  # faster than `in`
_LISTED = ("urls", "numbering")  # rules whose every removal is listed in dropped.parquet


class Limits(NamedTuple):
    """What a document must have: so many characters, and at least this Taigi score."""

    min_chars: int
    max_chars: int
    min_taigi_score: float


def clean_article(
    article: Article,
    tally: Tally,
    limits: Limits,
    ngrams: QuestionNgrams | None = None,
    convert_simplified: bool = False,
) -> tuple[CleanedArticle, bytes]:
    """An article by all rules, counted in `tally`, and its text in UTF-8."""
    cuts: list[Cut] = []
    text = article.text
    if convert_simplified and looks_simplified(census(text)):
        text = _to_traditional(text)
        tally.converted_articles += 1
    for step in clean_steps(text):
        _count(step, article, tally, cuts)
        text = step.after
    characters = len(text)
    text, first_rows, row_counts = _match_rows(article, text)
    if emptied := len(article.rows) - sum(row_counts):
        cuts.append(Cut(article.rows[0], emptied, "empty", ""))
    if ngrams is not None:
        text, dropped, hits = drop_overlaps(text, first_rows, row_counts, ngrams)
        cuts += dropped
        where = {"source": article.source, "title": article.title}
        tally.hits += [where | hit for hit in hits]
    data, pieces = cut_documents(text, limits)
    names = (article.title, article.author, article.source)
    cleaned = CleanedArticle(*names, characters, first_rows, row_counts, cuts, len(text), len(data), pieces)
    return cleaned, data


def _match_rows(article: Article, text: str) -> tuple[str, list[int], list[int]]:
    """The text without empty lines; for each line the row it begins in and how many rows begin in it."""
    # The first row that begins on each line on which any does, last line first; and how many begin there.
    first_on = dict(zip(reversed(article.first_lines), reversed(article.rows), strict=True))
    rows_on = Counter(article.first_lines)
    breaks = text.count("\n")
    if len(first_on) == breaks + 1 and text[:1] != "\n" != text[-1:] and not _EMPTY_LINE.search(text):
        return text, list(first_on.values())[::-1], list(rows_on.values())
    rows, counts, row = [], [], article.rows[0]
    lines = text.split("\n")
    for number, line in enumerate(lines):
        row = first_on.get(number, row)
        if line:
            rows.append(row)
            counts.append(rows_on[number])
    return "\n".join([line for line in lines if line]), rows, counts


def cut_documents(text: str, limits: Limits) -> tuple[bytes, Pieces]:
    """The text in UTF-8, and its pieces as documents; those short of the limits have a reason."""
    kinds = kinds_of(text)
    counts = np.zeros(len(Kind), np.int64)
    parts: list[bytes] = []
    documents: list[Document] = []
    at = size = 0
    for start, end in split_spans(text, limits.min_chars, limits.max_chars):
        between, data = text[at:start].encode(), text[start:end].encode()
        size += len(between)
        of_piece = count_kinds(kinds[start:end])
        counts += of_piece
        score = taigi_score(of_piece)
        reason = ""
        if end - start < limits.min_chars:
            reason = "too_short"
        elif score < limits.min_taigi_score:
            reason = "not_taigi"
        documents.append(Document(size, size + len(data), end - start, score, hash_bytes(data), reason))
        size += len(data)
        parts += between, data
        at = end
    parts.append(text[at:].encode())
    private = Counter(_private_use(text)) if counts[Kind.PRIVATE] else {}
    pieces = Pieces(documents, looks_simplified(counts), int(counts[Kind.REPLACEMENT]), dict(private))
    return b"".join(parts), pieces


def _private_use(text: str) -> list[str]:
    return [f"U+{ord(c):04X}" for c in text if "\ue000" <= c <= "\uf8ff" or c >= "\U000f0000"]


def _to_traditional(text: str) -> str:
    import opencc

    # Character by character, but for those that are Traditional (and Taigi) in their own right.
    converter = opencc.OpenCC("s2t")
    return text.translate({ord(c): converter.convert(c) for c in set(text) - _OWN_RIGHT})


def _count(step: Step, article: Article, tally: Tally, cuts: list[Cut]) -> None:
    rule = step.rule
    tally.changes[rule] += sum([len(stretches) for _, stretches in step.log])
    tally.removed[rule] += len(step.before) - len(step.after)
    if rule in _LISTED:
        line = at = 0
        for position, (stretch,) in step.log:
            line += step.before.count("\n", at, position)
            at = position
            row = article.rows[bisect_right(article.first_lines, line) - 1]
            cuts.append(Cut(row, 0, rule, stretch))
    else:
        counter = tally.stretches.setdefault(rule, Counter())
        for _, stretches in step.log:
            counter.update(stretches)
    samples = tally.samples.setdefault(rule, [])
    if len(samples) < SAMPLES:
        samples.append(_sample(step, article))


def _sample(step: Step, article: Article) -> dict[str, str]:
    """The first change of a step in its surroundings, before and after."""
    position = step.log[0][0]
    line = step.before.count("\n", 0, position)
    before, begins = _line_at(step.before, line)
    after, _ = _line_at(step.after, line)
    start = max(0, position - begins - 15)
    return {
        "source": article.source,
        "title": article.title,
        "before": before[start : start + 60],
        "after": after[start : start + 60],
    }


def _line_at(text: str, number: int) -> tuple[str, int]:
    """A line, and where it begins."""
    start = 0
    for _ in range(number):
        start = text.index("\n", start) + 1
    end = text.find("\n", start)
    return text[start : end if end >= 0 else len(text)], start
