"""What the characters of a text tell of it: whether it is Taigi, or Simplified Chinese.

Counts come from one table look-up a character, which gives its kind.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import IntEnum
from functools import cache, lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from corpus_tools.cleaning.characters import HAN_RANGES, codes_of, look_up
from corpus_tools.cleaning.syllables import TONE_DIGITS, is_syllable

# Written in nearly every Taigi passage and in under 1 % of Mandarin lines.
TAIGI_MARKERS = "佇佮毋袂閣咧矣攏伊予欲遮遐揣媠爾囡囝啉阮恁𪜶跤喙濟"


# What fonts that lie about Latin-1, and UTF-8 read as Latin-1, leave of a Taigi text: signs that it has no use for, and
# letters that neither Tâi-lô nor POJ writes.
OLD_FONT_SIGNS = "¡¤¦¨ª¬¯´µ¶¸¹º¼¾¿"
OLD_FONT_LETTERS = "ÃÄÅ"  # the commonest of them: UTF-8 read as Latin-1 has one for nearly every tone
OLD_FONT = OLD_FONT_SIGNS + "ÃÄÅÆÇÐÑÕÖØÜÝÞßãäåæçðñõöøüýþÿËÏëï"


class Kind(IntEnum):
    """The classes `census` counts; a character belongs to one."""

    OTHER = 0
    HAN = 1
    TAIGI = 2  # Han written in Taigi and hardly in Mandarin
    SIMPLIFIED = 3  # Han of GB 2312 that Big5 lacks
    TRADITIONAL = 4  # Han of Big5 that GB 2312 lacks
    LATIN = 5
    TONE = 6  # Latin letter with a diacritic, combining diacritic, ⁿ
    PRIVATE = 7
    REPLACEMENT = 8  # U+FFFD
    OLD_FONT = 9  # signs of Latin-1 that a font of its own showed as something else


def _han_of(charset: str, first: int) -> set[str]:
    """The Han of a legacy character set whose two bytes are `first` or more."""
    encoded = "".join(map(chr, range(0x4E00, 0xA000))).encode(charset, "ignore")
    pairs = np.frombuffer(encoded, ">u2")
    return set(pairs[pairs >= first].tobytes().decode(charset))


@cache
def kinds() -> npt.NDArray[np.uint8]:
    """Class of every code point, [0x110000] uint8."""
    table = np.zeros(0x110000, np.uint8)
    for first, last in HAN_RANGES:
        table[first : last + 1] = Kind.HAN
    simplified, traditional = _han_of("gb2312", 0xB0A1), _han_of("big5", 0xA440)
    groups = {
        Kind.SIMPLIFIED: simplified - traditional,
        Kind.TRADITIONAL: traditional - simplified,
        Kind.TAIGI: TAIGI_MARKERS,
        Kind.REPLACEMENT: "\ufffd",
        Kind.OLD_FONT: OLD_FONT_SIGNS + OLD_FONT_LETTERS,
    }
    table[ord("A") : ord("Z") + 1] = table[ord("a") : ord("z") + 1] = Kind.LATIN
    table[0xC0:0x250] = table[0x1E00:0x1F00] = table[0x300:0x370] = Kind.TONE
    table[[0xD7, 0xF7]] = Kind.OTHER
    for kind, characters in groups.items():
        table[[ord(c) for c in characters]] = kind
    table[[0x207F, 0x1D3A]] = Kind.TONE
    for first, last in ((0xE000, 0xF8FF), (0xF0000, 0xFFFFD), (0x100000, 0x10FFFD)):
        table[first : last + 1] = Kind.PRIVATE
    return table


def census(text: str) -> list[int]:
    """Characters of each kind.

    >>> counts = census("阮兜佇台南 ê 海邊")
    >>> counts[Kind.TAIGI], counts[Kind.TONE]
    (2, 1)
    """
    counts: list[int] = np.bincount(look_up(kinds(), codes_of(text)), minlength=len(Kind)).tolist()
    return counts


def taigi_score(text: str) -> float:
    """How much a text looks like Taigi, from 0 to 1.

    Han text scores by the share of characters written in Taigi alone (1 from 3 % on), romanised text by the
    share of letters that carry a tone (1 from 12 % on); mixed text by both, a syllable of three letters
    weighing as much as one Han character. A tone digit is a letter that carries a tone.

    >>> taigi_score("阮佇遮食飯"), taigi_score("他們吃飯"), taigi_score("Góa bô beh khì"), taigi_score("Goa2 bo5 beh")
    (1.0, 0.0, 1.0, 1.0)
    """
    return measure_spans([text], [[(0, len(text))]]).scores[0] if text else 0.0


_BITS = 10  # of a counter of characters; five of them, one of bytes and a flag share 64 bits
_MOST = (1 << _BITS) - 1
_SHIFTS = np.arange(0, 6 * _BITS, _BITS, dtype=np.uint64)
# Bytes have all that is left below the flag.
_MASKS = np.array([_MOST] * 5 + [(1 << 63 - 5 * _BITS) - 1], np.uint64)
_FLAG = np.uint64(1 << 63)  # of what is looked at one by one: digits, and the rare kinds
_LEAST_SIMPLIFIED = 10  # characters
_TONE_DIGIT = np.uint64((1 << 2 * _BITS) + (1 << 3 * _BITS))  # a letter and a tone, see `_counters`
_LETTERS_AT_END, _LONGEST_SYLLABLE = re.compile(r"[A-Za-z]+\Z"), 9
_NASALS = np.array(
    [ord(c) for c in "Nⁿ\u0358"], np.uint32
)  # that may stand between a vowel and its tone digit


@cache
def _counters() -> npt.NDArray[np.uint64]:
    """What each code point adds to the counters: Han, Taigi, letters, tones, Simplified, bytes; [0x110000] uint64."""
    of_kind = np.zeros(len(Kind), np.uint64)
    for place, counted in enumerate(
        (
            (Kind.HAN, Kind.TAIGI, Kind.SIMPLIFIED, Kind.TRADITIONAL),
            (Kind.TAIGI,),
            (Kind.LATIN, Kind.TONE),
            (Kind.TONE,),
            (Kind.SIMPLIFIED,),
        )
    ):
        of_kind[list(counted)] += np.uint64(1 << (_BITS * place))
    of_kind[[Kind.PRIVATE, Kind.REPLACEMENT, Kind.OLD_FONT]] = _FLAG
    counters = of_kind[kinds()]
    for first in (0, 0x80, 0x800, 0x10000):  # from which on a character has a byte more
        counters[first:] += np.uint64(1 << 5 * _BITS)
    counters[list(map(ord, TONE_DIGITS))] |= _FLAG
    return counters


class Measures(NamedTuple):
    """Of some spans in order: their `taigi_score`, lengths in UTF-8, scripts. Of each text: what is `found` in it."""

    scores: list[float]
    sizes: list[int]
    scripts: list[int]
    found: list[Found]


# How a text is written, by the place in this list: nine tenths Han; nine tenths Latin letters, their tones written as
# diacritics or not at all; or mostly as digits; or anything between.
SCRIPTS = ("han", "romanised", "tone_digits", "mixed")


class Found(NamedTuple):
    """Whether a text may be Simplified Chinese (ask `looks_simplified`), has private-use characters, U+FFFD or signs of
    Latin-1 that look like an old font's.
    """

    simplified: bool
    rare: bool


def measure_spans(texts: Sequence[str], spans: Sequence[Sequence[tuple[int, int]]]) -> Measures:
    """What the spans of each text are, in order and with nothing but spaces and line breaks outside of them."""
    counts = list(map(len, spans))
    if not any(counts):
        return Measures([], [], [], [Found(False, False)] * len(texts))
    codes = codes_of("".join(texts))
    counters = look_up(_counters(), codes)
    flagged = np.flatnonzero(counters >= _FLAG)
    is_digit = look_up(_is_digit(), codes[flagged])
    digits = _tone_digits(codes, flagged[is_digit])
    counters[digits] += _TONE_DIGIT
    begins = np.repeat(np.cumsum([0, *map(len, texts[:-1])]), counts)  # of the text of each span
    starts, ends = np.array([span for of_text in spans for span in of_text]).T + begins
    sums = _sums(counters, starts, ends)
    # What lies behind a span has a byte a character.
    sizes = sums[:, 5] - (np.append(starts[1:], len(counters)) - ends)
    first_spans = np.cumsum([0, *counts[:-1]])[np.array(counts) > 0]
    _, taigi, _, _, simplified, _ = np.add.reduceat(sums, first_spans, axis=0).T
    maybe = (simplified >= _LEAST_SIMPLIFIED) & (simplified > 4 * taigi)
    edges = np.searchsorted(flagged[~is_digit], np.append(starts[first_spans], len(codes)))
    rare = np.diff(edges) > 0
    found = map(Found, maybe.tolist(), rare.tolist())
    return Measures(
        list(map(_score, *sums[:, :4].T.tolist())),
        sizes.tolist(),
        _scripts(sums, np.searchsorted(digits, ends) - np.searchsorted(digits, starts)).tolist(),
        [next(found) if count else Found(False, False) for count in counts],
    )


@cache
def _is_digit() -> npt.NDArray[np.bool_]:
    """Which code points may be the digit of a tone, [0x110000] bool."""
    table = np.zeros(0x110000, np.bool_)
    table[list(map(ord, TONE_DIGITS))] = True
    return table


def _tone_digits(codes: npt.NDArray[np.uint32], digits: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Those of the digits' places that are tones of romanised syllables: goeh8, kiaN2, Tai5-lam5; not 2010 or MP3."""
    before = codes[digits - 1]
    behind = codes[np.minimum(digits + 1, len(codes) - 1)] | np.uint32(0x20)
    is_letter = (before - np.uint32(ord("a")) < 26) | np.isin(before, _NASALS)
    goes_on = (behind - np.uint32(ord("a")) < 26) | (behind - np.uint32(ord("0")) < 10)
    goes_on &= digits + 1 < len(codes)
    ends_word = ~goes_on & (digits > 0)
    capital = np.flatnonzero((before - np.uint32(ord("A")) < 26) & ~is_letter & ends_word)
    is_letter[capital] = [_ends_syllable(codes, place) for place in digits[capital].tolist()]
    return digits[is_letter & ends_word]


def _ends_syllable(codes: npt.NDArray[np.uint32], place: int) -> bool:
    """Whether a digit behind a capital is the tone of a syllable of two letters or more: MP3 and A4 are none."""
    before = "".join(map(chr, codes[max(0, place - _LONGEST_SYLLABLE) : place].tolist()))
    letters = _LETTERS_AT_END.search(before)
    return letters is not None and len(letters[0]) > 1 and _is_syllable(letters[0])


@lru_cache(4096)
def _is_syllable(letters: str) -> bool:
    return is_syllable(letters)


def _scripts(sums: npt.NDArray[np.int64], digits: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The script of each span, [spans]: the place in SCRIPTS; a syllable of three letters weighs as one Han."""
    han, letters, tones = sums[:, 0], sums[:, 2] / 3, sums[:, 3]
    scripts = np.full(len(sums), SCRIPTS.index("mixed"))
    scripts[han >= 9 * letters] = SCRIPTS.index("han")
    latin = letters > 9 * han
    scripts[latin] = SCRIPTS.index("romanised")
    scripts[latin & (2 * digits > tones)] = SCRIPTS.index("tone_digits")
    return scripts


def _sums(
    counters: npt.NDArray[np.uint64], starts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """The six counters of each span and of what lies between it and the next one, [spans, 6]."""
    pieces = -((starts - ends) // _MOST)  # of each span: so short that no counter runs over
    firsts = np.cumsum(pieces) - pieces
    places = np.arange(pieces.sum()) - np.repeat(firsts, pieces)
    begins = np.repeat(starts, pieces) + _MOST * places
    of_pieces = np.add.reduceat(counters, begins)[:, None] >> _SHIFTS & _MASKS
    return np.add.reduceat(of_pieces.astype(np.int64), firsts, axis=0)


def _score(han: int, taigi: int, letters: int, tones: int) -> float:
    if han + letters == 0:
        return 0.0
    written = min(1.0, taigi / (0.03 * han)) if han else 0.0
    spoken = min(1.0, tones / (0.12 * letters)) if letters else 0.0
    return round((han * written + letters / 3 * spoken) / (han + letters / 3), 4)


def looks_simplified(text: str) -> bool:
    """Whether a text is itself Simplified Chinese: many characters only Simplified has, few only Traditional has.

    >>> looks_simplified("我们这个时候说话，还没听过这样的语言。" * 2)
    True
    >>> looks_simplified("个个攏講台語，才無愛佇庄跤。" * 5)
    False
    """
    counts = census(text)
    simplified = counts[Kind.SIMPLIFIED]
    return simplified >= _LEAST_SIMPLIFIED and simplified > 4 * (
        counts[Kind.TRADITIONAL] + counts[Kind.TAIGI]
    )
