"""What the rows of a file are: windows of a running text, paragraphs and headings, or lines of verse."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import msgspec

from corpus_tools.cleaning.numbering import ends_sentence
from corpus_tools.documents import Row
from corpus_tools.steps.window_edges import FIRST_WIDE, FIRST_WORD, Spaces, last_word

RowKind = Literal["window", "paragraph", "line"]

_LOOKED_AT = 200  # rows of a file, and no fewer than half as many where there are so many
_ENOUGH = 8  # rows that another of their article follows
_FEW = 3  # such rows, which prove something only if all of them are as short as no window is
_NO_WINDOW = 16  # in Han or syllables
_OVERLAP, _LOOKED_BACK = 8, 1000  # characters: the least that overlap, and how far back that may begin
_SHORT = 40  # a heading or a line of verse, in Han or syllables
_HEADINGS = 0.75  # of the rows that end no sentence, and stand alone all the same
# What a heading or a message does not end with, but a window that ran full may.
_GOES_ON = frozenset("，、；：,;:.-–—(（「『“‘[【〈《/&+")
_SPACED, _STRAY = 1 / 8, 1 / 20  # of the seams, where spaces are kept, and where they are lost
_KNOWN = 0.1  # of what two rows make at their edges are words elsewhere, if no word was cut


class Evidence(msgspec.Struct, frozen=True):
    """What speaks for a kind of rows.

    Of the `followed` rows looked at, behind which another one of their article comes, `open` end no sentence;
    lengths are nine tenths' most, in Han characters or syllables. `overlapping` rows end as the next one begins.
    `spaces`: whether those between the words of two rows are kept at the edge of one, lost as by `textwrap`, or
    stripped from rows that may also cut a word.
    """

    kind: RowKind
    followed: int = 0
    open: int = 0
    length: int = 0
    open_length: int = 0
    overlapping: int = 0
    spaces: Spaces = "unknown"


class _Look(NamedTuple):
    """What is seen of a row: its length, whether no sentence ends with it, whether it may be a heading by its end,
    whether the next row begins with its end; and what is seen where the two meet.
    """

    length: int
    open: bool
    stands_alone: bool
    overlaps: bool
    seam: _Seam | None


class _Seam(NamedTuple):
    """Where two rows meet in letters that words are written with: the characters of the first one, what its last word
    and the other one's first make together, and other words of it; `spaced` where a space is still there.
    """

    size: int
    word: str
    words: frozenset[str]
    spaced: bool


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
    Headings among paragraphs, and messages, are short and end with a word. Verse has short lines only. Few rows are
    windows, unless each is a few words long and ends with one.

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
    left_open, alone = not ends_sentence(text, len(text)), text[-1] not in _GOES_ON
    return _Look(size, left_open, alone, _overlaps(text, after.text), _seam(text, after.text))


def _seam(text: str, after: str) -> _Seam | None:
    """What is seen where two rows meet; nothing if there are no words."""
    if text[-1] >= FIRST_WIDE or after[:1] >= FIRST_WIDE:
        return None
    spaced = text[-1] == " " or after[:1] == " "
    before, behind = last_word(text.rstrip(" ")), FIRST_WORD.match(after.lstrip(" "))
    if not before or behind is None or before[-1] >= FIRST_WIDE or behind[0][0] >= FIRST_WIDE:
        return None
    words = FIRST_WORD.findall(text[-_LOOKED_BACK:])[1:-1]
    return _Seam(len(text), before + behind[0], frozenset(words), spaced)


def _edge_spaces(seams: Sequence[_Seam], by_length: bool) -> Spaces:
    """What became of spaces where rows meet. Cut anywhere, some rows begin or end with one, unless they were stripped,
    which leaves nearly all as long as the longest. Windows that were cut at spaces are seldom so, and no word was cut.

    >>> rows = [Row(text, "A") for text in ("the old songs of", "the islands are", "old, and of the", "songs", "old")]
    >>> _edge_spaces([_seam(row.text, after.text) for row, after in zip(rows, rows[1:])], False)
    'lost'
    """
    glued = [seam for seam in seams if not seam.spaced]
    spaced = len(seams) - len(glued)
    if spaced >= _FEW and spaced >= _SPACED * len(seams):
        return "kept"
    if len(glued) <= _FEW or spaced > _STRAY * len(seams):
        return "unknown"
    full = max(seam.size for seam in glued)
    known = frozenset().union(*(seam.words for seam in glued))
    cut_words = sum(seam.word in known for seam in glued)
    if 2 * sum(seam.size == full for seam in glued) < len(glued) and cut_words <= _KNOWN * len(glued):
        return "lost"
    return "stripped" if by_length else "unknown"


def _cut_by_length(seams: Sequence[_Seam], looked_at: int) -> bool:
    """Whether rows that meet in words of letters are nearly all as long as the longest, but for a space at either end:
    no lines of verse are.
    """
    full = max((seam.size for seam in seams), default=0)
    as_long = sum(seam.size >= full - 2 for seam in seams)
    return len(seams) >= max(_FEW, looked_at / 8) and as_long >= 0.8 * len(seams)


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
    length, open_length = (_most(look.length for look in some) for some in (looks, left_open))
    overlapping = sum(look.overlaps for look in looks)
    seams = [look.seam for look in looks if look.seam]
    by_length = _cut_by_length(seams, len(looks))
    spaces = _edge_spaces(seams, by_length)
    if len(looks) < _ENOUGH:
        all_short = all(look.open and look.stands_alone and look.length <= _NO_WINDOW for look in looks)
        if not all_short or len(looks) < _FEW:
            return Evidence("window", len(looks), overlapping=overlapping, spaces=spaces)
    kind: RowKind = "window"
    if by_length:
        kind = "window"
    elif left_open and length <= _SHORT and len(left_open) >= len(looks) / 4:
        kind = "line"
    elif left_open:
        headings = sum(look.stands_alone and look.length <= _SHORT for look in left_open)
        kind = "paragraph" if headings >= _HEADINGS * len(left_open) else "window"
    return Evidence(kind, len(looks), len(left_open), length, open_length, overlapping, spaces)


def is_verse(paragraphs: Sequence[bytes]) -> bool:
    """Whether the paragraphs of an article, in UTF-8, are lines: short ones, a quarter of which end no sentence.

    >>> is_verse([line.encode() for line in ("Yn-mes a'n chy,", "yn-mes a'n dre,", "ni a gan.")])
    True
    """
    if len(paragraphs) < _FEW or _most(map(len, paragraphs)) // 3 > _SHORT:
        return False
    left_open = sum(not ends_sentence(p, len(p)) for p in map(bytes.decode, paragraphs))
    return left_open >= len(paragraphs) / 4


def _most(lengths: Iterable[int]) -> int:
    """The length that nine tenths do not exceed."""
    ordered = sorted(lengths)
    return ordered[min(len(ordered) - 1, len(ordered) * 9 // 10)] if ordered else 0
