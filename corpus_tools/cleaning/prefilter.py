"""The lines of many articles that a rule could change. Only these are given to the rules, all but numbering.

One table lookup gives each character's kind; characters of the rarer kinds are then examined together with their
neighbours. The filter may select a line that no rule changes, but it must select every line that one does.
"""

from __future__ import annotations

import re
from enum import IntEnum
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from corpus_tools.cleaning.characters import HAN_RANGES, codes_of, composing, look_up
from corpus_tools.cleaning.numbering import NUMBER_STARTS
from corpus_tools.cleaning.rules import CHARACTERS, SEPARATOR, may_compose_pair
from corpus_tools.cleaning.syllables import MIDDLE_DOTS

_TWIN_STOPS = re.compile("。。")

Places = npt.NDArray[np.int64]


class _Kind(IntEnum):
    """What a character could be to a rule."""

    NOTHING = 0
    REPLACED = 1
    COMPOSING = 2
    MARK = 3  # half-width; a colon or a dot may belong to an address
    DOT = 4
    ELLIPSIS = 5
    BOX = 6
    SPACE = 7
    BREAK = 8
    MIDDLE_DOT = 9


@cache
def _kinds() -> npt.NDArray[np.uint8]:
    """Kind of every code point, [0x110000] uint8."""
    table = np.zeros(0x110000, np.uint8)
    table[composing()] = _Kind.COMPOSING
    for characters, kind in (
        (",?!:;", _Kind.MARK),
        (".", _Kind.DOT),
        ("…", _Kind.ELLIPSIS),
        ("─", _Kind.BOX),
        (" ", _Kind.SPACE),
        ("\n" + SEPARATOR, _Kind.BREAK),
        (MIDDLE_DOTS, _Kind.MIDDLE_DOT),
        ("".join(CHARACTERS), _Kind.REPLACED),
    ):
        table[list(map(ord, characters))] = kind
    return table


@cache
def _is_han() -> npt.NDArray[np.bool_]:
    """Which code points are Han, [0x110000] bool."""
    table = np.zeros(0x110000, np.bool_)
    for first, last in HAN_RANGES:
        table[first : last + 1] = True
    return table


@cache
def _starts_number() -> npt.NDArray[np.bool_]:
    """Which code points a paragraph number may begin with, [0x110000] bool."""
    table = np.zeros(0x110000, np.bool_)
    table[list(map(ord, NUMBER_STARTS))] = True
    return table


class Lines(NamedTuple):
    """Some lines of a text of many articles.

    `numbers` are their places among all lines, `starts` and `ends` (before the line break) in characters; the
    first line of article k has the number `firsts[k]`, and a line of it that is not among these may be numbered if
    `numbered[k]`. `middle_dots`: whether the text has any.
    """

    numbers: list[int]
    starts: list[int]
    ends: list[int]
    firsts: list[int]
    numbered: list[bool]
    middle_dots: bool


def lines_to_clean(text: str) -> Lines:
    """The lines that a rule other than numbering could change, and the first and the last line of each article.

    The text is that of articles with a SEPARATOR before, between and behind them.
    """
    codes = codes_of(text)
    kinds = look_up(_kinds(), codes)
    places = np.flatnonzero(kinds != 0)
    kinds = kinds[places]
    breaks = places[kinds == _Kind.BREAK]
    edges = codes[breaks] == ord(SEPARATOR)
    touched = edges[:-1] | edges[1:]
    changeable = np.concatenate([_changeable(codes, places, kinds), _twin_stops(text)])
    touched[np.searchsorted(breaks, changeable) - 1] = True
    numbers = np.flatnonzero(touched)
    starts, ends = breaks[numbers] + 1, breaks[numbers + 1]
    firsts = np.flatnonzero(edges)[:-1]
    numbered = np.logical_or.reduceat(look_up(_starts_number(), codes[breaks[:-1] + 1]) & ~touched, firsts)
    dots = bool((kinds == _Kind.MIDDLE_DOT).any())
    return Lines(numbers.tolist(), starts.tolist(), ends.tolist(), firsts.tolist(), numbered.tolist(), dots)


def _twin_stops(text: str) -> Places:
    """Where two 。 or more stand together; a search of its own, for single ones are as frequent as sentences."""
    return np.array([match.start() for match in _TWIN_STOPS.finditer(text)], np.int64)


def _changeable(codes: npt.NDArray[np.uint32], places: Places, kinds: npt.NDArray[np.uint8]) -> Places:
    """Where a rule could change something, given the places of characters of a kind; every one has neighbours."""

    def of(kind: _Kind) -> tuple[Places, npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
        here = places[kinds == kind]
        return here, codes[here - 1], codes[here + 1]

    composing, before_composing, _ = of(_Kind.COMPOSING)
    pairs = before_composing.astype(np.uint64) << np.uint64(21) | codes[composing]
    composed = [
        pair for pair in np.unique(pairs).tolist() if may_compose_pair(chr(pair >> 21) + chr(pair & 0x1FFFFF))
    ]
    marks, before_mark, after_mark = of(_Kind.MARK)
    dots, before_dot, after_dot = of(_Kind.DOT)
    boxes = places[kinds == _Kind.BOX]
    ellipses, before_ellipsis, after_ellipsis = of(_Kind.ELLIPSIS)
    middle_dots, before_middle_dot, _ = of(_Kind.MIDDLE_DOT)
    spaces, before_space, after_space = of(_Kind.SPACE)
    lone = (before_ellipsis == ord("…")) == (after_ellipsis == ord("…"))  # or inside three or more
    at_edge = after_space == ord(" ")
    for character in "\n" + SEPARATOR:
        at_edge |= (before_space == ord(character)) | (after_space == ord(character))
    return np.concatenate(
        [
            composing[np.isin(pairs, np.array(composed, np.uint64))] if composed else composing[:0],
            places[kinds == _Kind.REPLACED],
            marks[look_up(_is_han(), before_mark) | (after_mark == ord("/"))],
            dots[(after_dot == ord(".")) | (before_dot | 0x20 == ord("w"))],
            boxes[:-1][np.diff(boxes) == 1],
            # Behind a Latin letter or its tone, or one that composition changes.
            middle_dots[(before_middle_dot < 0x370) | (codes[middle_dots] == 0x387)],
            ellipses[lone],
            spaces[at_edge],
        ]
    )
