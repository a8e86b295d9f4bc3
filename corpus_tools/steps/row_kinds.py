"""What the rows of a file are: windows of a running text, paragraphs and headings, or lines of verse."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import msgspec

from corpus_tools.cleaning.numbering import ends_sentence
from corpus_tools.documents import Row

RowKind = Literal["window", "paragraph", "line"]

_LOOKED_AT = 200  # rows of a file, and no fewer than half as many where there are so many
_ENOUGH = 8  # rows that another of their article follows
_FEW = 3  # such rows, which prove something only if all of them are as short as no window is
_NO_WINDOW = 16  # in Han or syllables
_OVERLAP, _LOOKED_BACK = 8, 1000  # characters: the least that overlap, and how far back that may begin
_SHORT = 40  # a heading or a line of verse, in Han or syllables


class Evidence(msgspec.Struct, frozen=True):
    """What speaks for a kind of rows.

    Of the `followed` rows looked at, behind which another one of their article comes, `open` end no sentence;
    lengths are nine tenths' most, in Han characters or syllables. `overlapping` rows end as the next one begins.
    """

    kind: RowKind
    followed: int = 0
    open: int = 0
    length: int = 0
    open_length: int = 0
    overlapping: int = 0


class _Look(NamedTuple):
    """What is seen of a row: its length, whether a sentence ends with it, whether it ends with a word, whether the next
    row begins with its end.
    """

    length: int
    open: bool
    at_a_word: bool
    overlaps: bool


class RowSample:
    """Rows of a file, evenly spread however many there are, and what is seen of each.

    Looked at is every row whose number, from 0, is a multiple of the smallest power of two that leaves at most
    `_LOOKED_AT` of them; the file's last row, which none follows, is not.
    """

    def __init__(self) -> None:
        self._step = 1
        self._count = 0
        self._before: Row | None = None  # if it is to be looked at
        self._looks: list[_Look | None] = []

    def add(self, row: Row) -> None:
        """The next row of the file."""
        if self._before is not None:
            self._looks.append(_look(self._before, row))
            self._before = None
            if len(self._looks) > _LOOKED_AT:
                self._step *= 2
                del self._looks[1::2]
        if self._count % self._step == 0:
            self._before = row
        self._count += 1

    def judge(self) -> Evidence:
        """What the rows are, see `kind_of_rows`."""
        return _judge(self._looks)


def kind_of_rows(rows: Sequence[Row]) -> Evidence:
    """Judge a file's rows by where they end.

    Windows are cut where their length is reached, so the rows that end no sentence are long, or end with a comma.
    Headings among paragraphs are short and end with a word. Verse has short lines only. Few rows are windows, unless
    each is a few words long and ends with one.

    >>> verse = [Row(text, "歌") for text in ["一更更鼓月照山", "牽君的手摸心肝", "君來問娘欲按怎"] * 4]
    >>> kind_of_rows(verse).kind
    'line'
    """
    step = 1
    while -(-(len(rows) - 1) // step) > _LOOKED_AT:
        step *= 2
    return _judge([_look(rows[i], rows[i + 1]) for i in range(0, len(rows) - 1, step)])


def _look(row: Row, after: Row) -> _Look | None:
    """What is seen of a row; nothing if another article's row follows, or a line break ends it."""
    text = row.text
    if not (row.title and row.title == after.title and text) or text.endswith("\n"):
        return None
    # A Han character has three bytes, as a syllable has.
    size = len(text.encode(errors="surrogatepass")) // 3
    return _Look(size, not ends_sentence(text, len(text)), text[-1].isalnum(), _overlaps(text, after.text))


def _overlaps(text: str, after: str) -> bool:
    """Whether a text ends with what the next one begins with, neither of them with all of it.

    >>> _overlaps("春天來矣，花開矣，逐家真歡喜。", "花開矣，逐家真歡喜。熱天嘛來矣。")
    True
    >>> _overlaps("春天來矣，花開矣。", "春天來矣，花開矣。")
    False
    """
    start = after[:_OVERLAP]
    at = text.find(start, max(1, len(text) - _LOOKED_BACK)) if len(after) > _OVERLAP else -1
    while at > 0 and not after.startswith(text[at:]):
        at = text.find(start, at + 1)
    return at > 0


def _judge(seen: Sequence[_Look | None]) -> Evidence:
    looks = [look for look in seen if look is not None]
    left_open = [look for look in looks if look.open]
    length, open_length = _most(looks), _most(left_open)
    overlapping = sum(look.overlaps for look in looks)
    if len(looks) < _ENOUGH:
        all_short = all(look.open and look.at_a_word and look.length <= _NO_WINDOW for look in looks)
        if not all_short or len(looks) < _FEW:
            return Evidence("window", len(looks), overlapping=overlapping)
    kind: RowKind = "window"
    if left_open and length <= _SHORT and len(left_open) >= len(looks) / 4:
        kind = "line"
    elif left_open and open_length <= _SHORT:
        at_a_word = sum(look.at_a_word for look in left_open)
        kind = "paragraph" if at_a_word >= 0.8 * len(left_open) else "window"
    return Evidence(kind, len(looks), len(left_open), length, open_length, overlapping)


def _most(looks: Sequence[_Look]) -> int:
    """The length that nine tenths do not exceed."""
    lengths = sorted(look.length for look in looks)
    return lengths[min(len(lengths) - 1, len(lengths) * 9 // 10)] if lengths else 0
