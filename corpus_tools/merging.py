"""Rows of one title become one article: ordered by paragraph_id, broken windows joined, paragraphs on lines."""

from __future__ import annotations

from collections.abc import Sequence

from corpus_tools.documents import Article, Row
from corpus_tools.numbering import CLOSERS, SENTENCE_ENDS, candidates, ends_sentence, in_sequence

_NUMBER_STARTS = frozenset("(（[【〔0123456789０１２３４５６７８９一二三四五六七八九十百第 ")
_COMPLETE = frozenset("。！？!?…\n")


def group_rows(rows: Sequence[Row]) -> list[list[int]]:
    """Indices of rows by title, titles in order of their first row, rows by paragraph_id (ties in file order).

    A row without a title stands for itself.
    """
    titles: dict[str, list[int]] = {}
    groups: list[list[int]] = []
    for i, row in enumerate(rows):
        group = titles.get(row.title) if row.title else None
        if group is None:
            group = []
            groups.append(group)
            if row.title:
                titles[row.title] = group
        group.append(i)
    for group in groups:
        group.sort(key=lambda i: rows[i].paragraph_id or 0)
    return groups


def _starts_paragraph(previous: str, text: str) -> bool:
    """Whether a row begins a paragraph, judged by the row before it; both non-empty."""
    if previous[-1] in _COMPLETE or ends_sentence(previous, len(previous)):
        # A window may break between a sentence and its closing quote.
        return text.lstrip(" ")[:1] not in CLOSERS and text[0] not in SENTENCE_ENDS
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
        if text and previous[-1] != "\n" and (i in numbered or _starts_paragraph(previous, text)):
            parts.append("\n")
            line += 1
        lines.append(line)
        if text:
            parts.append(text)
            line += text.count("\n")
            previous = text
    return "".join(parts), lines


def merge_rows(rows: Sequence[Row], group: Sequence[int], source: str) -> Article:
    """The article of the rows in `group` (indices in reading order), which share a title."""
    texts = [rows[i].text for i in group]
    if any("\r" in text for text in texts):
        texts = [text.replace("\r\n", "\n").replace("\r", "\n") for text in texts]
    text, lines = join_rows(texts)
    first = rows[group[0]]
    return Article(first.title or "", first.author or "", source, text, [i + 1 for i in group], lines)
