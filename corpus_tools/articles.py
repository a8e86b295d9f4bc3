"""One article: the rules applied and counted, rows matched to its paragraphs."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter
from itertools import compress, count
from operator import ne, sub

from corpus_tools.cleaning import Step, clean_steps
from corpus_tools.decontamination import QuestionNgrams, drop_overlaps
from corpus_tools.documents import Article, CleanedArticle, Cut, Tally
from corpus_tools.kinds import TAIGI_MARKERS, looks_simplified

SAMPLES = 4  # of a rule, a shard
_OWN_RIGHT = frozenset("台个庄才干里欲娘" + TAIGI_MARKERS)
_EMPTY_LINE = re.compile("\n\n")  # faster than `in`
_LISTED = ("urls", "numbering")  # rules whose every removal is listed in dropped.parquet


def clean_article(
    article: Article,
    tally: Tally,
    ngrams: QuestionNgrams | None = None,
    convert_simplified: bool = False,
) -> tuple[CleanedArticle, bytes]:
    """An article by all rules, counted in `tally`, and its text in UTF-8."""
    cuts: list[Cut] = []
    text = article.text
    if convert_simplified and looks_simplified(text):
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
    data = text.encode()
    names = (article.title, article.author, article.source)
    return CleanedArticle(*names, characters, first_rows, row_counts, cuts, len(text), len(data)), data


def _match_rows(article: Article, text: str) -> tuple[str, list[int], list[int]]:
    """The text without empty lines; for each line the row it begins in and how many rows begin in it."""
    lines = article.first_lines
    firsts = [0, *compress(count(1), map(ne, lines[1:], lines))]  # of the rows that begin on one line
    breaks = text.count("\n")
    if len(firsts) == breaks + 1 and text[:1] != "\n" != text[-1:] and not _EMPTY_LINE.search(text):
        rows = [article.rows[i] for i in firsts]
        return text, rows, list(map(sub, [*firsts[1:], len(lines)], firsts))
    first_on = {lines[i]: article.rows[i] for i in firsts}
    rows_on = Counter(lines)
    rows, counts, row = [], [], article.rows[0]
    paragraphs = text.split("\n")
    for number, paragraph in enumerate(paragraphs):
        row = first_on.get(number, row)
        if paragraph:
            rows.append(row)
            counts.append(rows_on[number])
    return "\n".join(filter(None, paragraphs)), rows, counts


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
