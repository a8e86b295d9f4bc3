"""Rows of one title become one article: ordered by paragraph_id, broken windows joined, paragraphs on lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import accumulate, chain, compress, count, groupby, islice
from operator import add, attrgetter, gt, itemgetter, lt, not_

from corpus_tools.cleaning.numbering import (
    CLOSERS,
    NUMBER_STARTS,
    SENTENCE_ENDS,
    ends_sentence,
    in_sequence,
    number_at,
)
from corpus_tools.documents import Article, Row

_COMPLETE = frozenset("。！？!?…")
_MAY_END = _COMPLETE | frozenset(CLOSERS + ". ")
_CONTINUES = frozenset(CLOSERS + SENTENCE_ENDS)
_UNCERTAIN = _CONTINUES | {" "}
_first, _last = itemgetter(0), itemgetter(-1)


def group_rows(rows: Sequence[Row], sources: Sequence[int] | None = None) -> list[Sequence[int]]:
    """Indices of rows by title, titles in order of their first row, rows in reading order.

    A row without a title stands for itself. Rows of one title are ordered by paragraph_id; where an id comes
    twice (two works, or two volumes, under one title) the second set follows the first. Across files
    (`sources[i]` is the file of row i) only the same title by the same author is one article. Rows that lie
    together in order are a range.
    """
    titles: dict[tuple[str, str | None], list[range]] = {}
    groups: list[Sequence[int]] = []
    authors: dict[tuple[int, str], str | None] = {}
    start = 0
    for title, run in groupby(map(attrgetter("title"), rows)):
        indices = range(start, start + len(list(run)))
        start = indices.stop
        if not title:
            groups += [range(i, i + 1) for i in indices]
        elif sources is None:
            titles.setdefault((title, None), []).append(indices)
        else:
            for i in indices:
                author = authors.setdefault((sources[i], title), rows[i].author)
                titles.setdefault((title, author), []).append(range(i, i + 1))
    groups += [runs[0] if len(runs) == 1 else list(chain(*runs)) for runs in titles.values()]
    groups.sort(key=_first)
    return [_reading_order(rows, group) for group in groups]


def _reading_order(rows: Sequence[Row], group: Sequence[int]) -> Sequence[int]:
    ids = [rows[i].paragraph_id or 0 for i in group]
    if all(map(lt, ids, islice(ids, 1, None))):
        return group
    seen: Counter[int] = Counter()
    order = []
    for i, identifier in zip(group, ids, strict=True):
        order.append((seen[identifier], identifier, i))
        seen[identifier] += 1
    return [i for _, _, i in sorted(order)]


def repeated_rows(texts: Sequence[str], min_chars: int) -> set[int]:
    """Which texts of an article, if of `min_chars` characters or more, repeat an earlier one of it.

    Windows break sentences, so such a copy must go before the windows are joined.
    """
    if len(set(texts)) == len(texts):
        return set()
    first: set[str] = set()
    repeated = set()
    for i, text in enumerate(texts):
        if len(text) >= min_chars:
            if text in first:
                repeated.add(i)
            first.add(text)
    return repeated


def _starts_paragraph(previous: str, last: str, text: str) -> bool:
    """Whether a row begins a paragraph, judged by the row before it, which ends with `last`; both non-empty."""
    if last in _COMPLETE or (last in _MAY_END and ends_sentence(previous, len(previous))):
        # A window may break between a sentence and its closing quote.
        first = text[0]
        return first not in _CONTINUES and (first != " " or text.lstrip(" ")[:1] not in _CONTINUES)
    return False


def _numbered_in_sequence(texts: Sequence[str], firsts: Sequence[str]) -> set[int]:
    """Indices of rows that begin with a number which runs on from, or into, the number of another row."""
    starting = compress(count(), map(NUMBER_STARTS.__contains__, firsts))
    found = [(i, number) for i in starting if (number := number_at(texts[i], 0)) is not None]
    return {found[place][0] for place in in_sequence([number for _, number in found])}


def _paragraph_starts(texts: Sequence[str]) -> list[bool]:
    """Which of some rows, none of them empty, begin a paragraph behind another one."""
    firsts, lasts = list(map(_first, texts)), list(map(_last, texts))
    # Most rows are decided without a call for each.
    complete, uncertain = map(_COMPLETE.__contains__, lasts), map(_UNCERTAIN.__contains__, firsts[1:])
    # gt on two booleans is set difference: row i starts a paragraph if row i-1 is in `complete` (its last character
    # ends a sentence) and row i is not in `uncertain` (its first character could still belong to that sentence).
    starts = [False, *map(gt, complete, uncertain)]
    for i in compress(count(1), map(not_, starts[1:])):
        starts[i] = lasts[i - 1] in _MAY_END and _starts_paragraph(texts[i - 1], lasts[i - 1], texts[i])
    numbered = map(NUMBER_STARTS.__contains__, firsts)
    undecided = compress(count(), map(gt, numbered, starts))  # numbered minus starts
    if any(i and number_at(texts[i], 0) for i in undecided):
        for i in _numbered_in_sequence(texts, firsts):
            starts[i] = i > 0 and lasts[i - 1] != "\n"
    return starts


def join_rows(texts: Sequence[str]) -> tuple[str, list[int]]:
    """The rows' text, a line break before each row that begins a paragraph; and each row's first line, from 0.

    Nothing else is inserted, nothing lost: a window that breaks a sentence is joined as it stands.

    >>> join_rows(["佇2010.09.", "20）彼工。", "隔轉工", "，阮去。"])
    ('佇2010.09.20）彼工。\\n隔轉工，阮去。', [0, 0, 1, 1])
    """
    filled = texts if all(texts) else [text for text in texts if text]
    if not filled:
        return "", [0] * len(texts)
    starts = _paragraph_starts(filled)
    parts = [""] * (2 * len(filled))
    parts[::2] = map(("", "\n").__getitem__, starts)
    parts[1::2] = filled
    joined = "".join(parts)
    if joined.count("\n") == sum(starts):
        inside = [0] * len(filled)
        lines = list(accumulate(starts[1:], initial=0))
    else:
        inside = [text.count("\n") for text in filled]
        lines = list(accumulate(map(add, starts, [0, *inside])))
    if len(filled) != len(texts):  # an empty row stands where the one before it ends
        ends = iter(zip(lines, map(add, lines, inside), strict=True))
        line, all_lines = 0, []
        for text in texts:
            first_line, line = next(ends) if text else (line, line)
            all_lines.append(first_line)
        lines = all_lines
    return joined, lines


def merge_rows(
    texts: Sequence[str], numbers: list[int], title: str | None, author: str | None, source: str
) -> Article:
    """The article of some rows' texts, in reading order; `numbers` are the rows' in their file, from 1."""
    text, lines = join_rows(texts)
    if "\r" in text:
        text, lines = join_rows([text.replace("\r\n", "\n").replace("\r", "\n") for text in texts])
    return Article(title or "", author or "", source, text, numbers, lines)
