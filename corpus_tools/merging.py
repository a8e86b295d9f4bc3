"""Rows of one title become one article: ordered by paragraph_id, broken windows joined, paragraphs on lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from operator import lt

from corpus_tools.documents import Article, Row
from corpus_tools.numbering import CLOSERS, SENTENCE_ENDS, candidates, ends_sentence, in_sequence

_NUMBER_STARTS = frozenset("(（[【〔0123456789０１２３４５６７８９一二三四五六七八九十百第 ")
_COMPLETE = frozenset("。！？!?…")
_MAY_END = frozenset(CLOSERS + ". ")
_CONTINUES = frozenset(CLOSERS + SENTENCE_ENDS)


def group_rows(rows: Sequence[Row], sources: Sequence[int] | None = None) -> list[list[int]]:
    """Indices of rows by title, titles in order of their first row, rows in reading order.

    A row without a title stands for itself. Rows of one title are ordered by paragraph_id; where an id comes
    twice (two works, or two volumes, under one title) the second set follows the first. Across files
    (`sources[i]` is the file of row i) only the same title by the same author is one article.
    """
    titles: dict[tuple[str, str | None], list[int]] = {}
    groups: list[list[int]] = []
    authors: dict[tuple[int, str], str | None] = {}
    for i, row in enumerate(rows):
        if not row.title:
            groups.append([i])
            continue
        author = authors.setdefault((sources[i], row.title), row.author) if sources else None
        key = (row.title, author)
        group = titles.get(key)
        if group is None:
            titles[key] = group = []
            groups.append(group)
        group.append(i)
    return [_reading_order(rows, group) for group in groups]


def _reading_order(rows: Sequence[Row], group: list[int]) -> list[int]:
    ids = [rows[i].paragraph_id or 0 for i in group]
    if all(map(lt, ids, ids[1:])):
        return group
    seen: Counter[int] = Counter()
    order = []
    for i, identifier in zip(group, ids, strict=True):
        order.append((seen[identifier], identifier, i))
        seen[identifier] += 1
    return [i for _, _, i in sorted(order)]


def repeated_rows(rows: Sequence[Row], group: Sequence[int], min_chars: int) -> set[int]:
    """Those rows of an article whose text, of `min_chars` characters or more, an earlier row of it has.

    Windows break sentences, so such a copy must go before the windows are joined.
    """
    if len({rows[i].text for i in group}) == len(group):
        return set()
    first: set[str] = set()
    repeated = set()
    for i in group:
        text = rows[i].text
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


def _numbered_in_sequence(texts: Sequence[str]) -> set[int]:
    """Indices of rows that begin with a number which runs on from, or into, the number of another row."""
    numbered = [i for i, text in enumerate(texts) if text[:1] in _NUMBER_STARTS]
    if len(numbered) < 2:
        return set()
    found = []
    for i in numbered:
        number = next(candidates(texts[i][:20]), None)
        if number is not None and number.start <= 1:
            found.append(number._replace(start=i))
    return in_sequence(found)


def join_rows(texts: Sequence[str]) -> tuple[str, list[int]]:
    """The rows' text, a line break before each row that begins a paragraph; and each row's first line, from 0.

    Nothing else is inserted, nothing lost: a window that breaks a sentence is joined as it stands.

    >>> join_rows(["佇2010.09.", "20）彼工。", "隔轉工", "，阮去。"])
    ('佇2010.09.20）彼工。\\n隔轉工，阮去。', [0, 0, 1, 1])
    """
    numbered = _numbered_in_sequence(texts)
    parts: list[str] = []
    lines: list[int] = []
    line = 0
    previous = "\n"
    for i, text in enumerate(texts):
        if text:
            last = previous[-1]
            if last != "\n" and (
                (last in _COMPLETE and text[0] not in _CONTINUES and text[0] != " ")
                or i in numbered
                or _starts_paragraph(previous, last, text)
            ):
                parts.append("\n")
                line += 1
            parts.append(text)
            lines.append(line)
            previous = text
            if "\n" in text:
                line += text.count("\n")
        else:
            lines.append(line)
    return "".join(parts), lines


def merge_rows(rows: Sequence[Row], group: Sequence[int], source: str) -> Article:
    """The article of the rows in `group` (indices in reading order), which share a title."""
    texts = [rows[i].text for i in group]
    if any("\r" in text for text in texts):
        texts = [text.replace("\r\n", "\n").replace("\r", "\n") for text in texts]
    text, lines = join_rows(texts)
    first = rows[group[0]]
    return Article(first.title or "", first.author or "", source, text, [i + 1 for i in group], lines)
