"""What the rows of a file are: windows of a running text, paragraphs and headings, or lines of verse."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from corpus_tools.cleaning.numbering import ends_sentence
from corpus_tools.documents import Row

RowKind = Literal["window", "paragraph", "line"]

_LOOKED_AT = 200  # rows of a file
_ENOUGH = 8  # rows that another of their article follows
_SHORT = 40  # a heading or a line of verse, in Han or syllables


class Evidence(msgspec.Struct, frozen=True):
    """What speaks for a kind of rows.

    Of the `followed` rows looked at, behind which another one of their article comes, `open` end no sentence;
    lengths are nine tenths' most, in Han characters or syllables.
    """

    kind: RowKind
    followed: int = 0
    open: int = 0
    length: int = 0
    open_length: int = 0


def kind_of_rows(rows: Sequence[Row]) -> Evidence:
    """Judge a file's rows by where they end.

    Windows are cut where their length is reached, so the rows that end no sentence are long, or end with a comma.
    Headings among paragraphs are short and end with a word. Verse has short lines only. Few rows prove nothing:
    they are windows.

    >>> verse = [Row(text, "歌") for text in ["一更更鼓月照山", "牽君的手摸心肝", "君來問娘欲按怎"] * 4]
    >>> kind_of_rows(verse).kind
    'line'
    """
    step = max(1, -(-len(rows) // _LOOKED_AT))
    pairs = [(rows[i], rows[i + 1]) for i in range(0, len(rows) - 1, step)]
    texts = [row.text for row, after in pairs if row.title and row.title == after.title and row.text]
    texts = [text for text in texts if not text.endswith("\n")]
    if len(texts) < _ENOUGH:
        return Evidence("window", len(texts))
    left_open = [text for text in texts if not ends_sentence(text, len(text))]
    length, open_length = _most(texts), _most(left_open)
    kind: RowKind = "window"
    if left_open and length <= _SHORT and len(left_open) >= len(texts) / 4:
        kind = "line"
    elif left_open and open_length <= _SHORT:
        at_a_word = sum(text[-1].isalnum() for text in left_open)
        kind = "paragraph" if at_a_word >= 0.8 * len(left_open) else "window"
    return Evidence(kind, len(texts), len(left_open), length, open_length)


def _most(texts: Sequence[str]) -> int:
    """The length that nine tenths of the texts do not exceed; a Han character has three bytes, as a syllable has."""
    sizes = sorted(len(text.encode()) // 3 for text in texts)
    return sizes[min(len(sizes) - 1, len(sizes) * 9 // 10)] if sizes else 0
