"""What single characters say: private-use code points, Simplified Chinese, and whether a text is Taigi.

Counts come from one table look-up a character: `census` maps each code point to a small class and counts
the classes, so that every rule that needs a rare character can be skipped where there is none.
"""

from __future__ import annotations

import unicodedata
from enum import IntEnum
from functools import cache

import numpy as np
import numpy.typing as npt

# The Ministry of Education's code points that occur in Taigi texts, now in Unicode.
# Source: the Ministry's list of Taigi characters; other vendors use other code points, which stay.
PRIVATE_USE = {
    0xE701: "\U0002a736",
    0xF5E9: "\U0002b74f",
    0xE35C: "\U0002b75b",
    0xF5EA: "\U0002b77a",
    0xF5EE: "\U0002b77b",
    0xE703: "\U0002b7bc",
    0xF5EF: "\U0002b7c2",
    0xE705: "\U0002c9b0",
    0xF5E7: "\U000308fb",
}

# Written in nearly every Taigi passage and in under 1 % of Mandarin lines.
TAIGI_MARKERS = "佇佮毋袂閣咧矣攏伊予欲遮遐揣媠爾囡囝啉阮恁𪜶跤喙濟"

HAN_RANGES = (
    (0x2E80, 0x2FD5),
    (0x3005, 0x3005),
    (0x3007, 0x3007),
    (0x3021, 0x3029),
    (0x3038, 0x303B),
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAD9),
    (0x20000, 0x2FA1F),
    (0x30000, 0x323AF),
)
# The same as a regex character class (without the brackets).
HAN = "".join(f"{chr(first)}-{chr(last)}" for first, last in HAN_RANGES)

# Forms that stand for another character; each becomes what it stands for.
SMALL_FORMS = dict(zip("﹐﹑﹒﹔﹕﹖﹗︰｢｣｡､﹁﹂﹃﹄", "，、．；：？！：「」。、「」『』", strict=True))

# A space of another kind or a control that separates: becomes a space.
ODD_SPACES = (
    "\t\v\f\r\x1c\x1d\x1e\x1f\x85\xa0\u1680"
    + "".join(map(chr, range(0x2000, 0x200B)))
    + "\u2028\u2029\u202f\u205f\u3000"
)
# Controls and invisible format characters: go. (Joiners and variation selectors are part of characters.)
INVISIBLE = (
    "".join(chr(c) for c in (*range(0x09), *range(0x0E, 0x1C), *range(0x7F, 0x85), *range(0x86, 0xA0)))
    + "\xad\u061c\u180e\u200b\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\u2061\u2062\u2063\u2064"
    + "\u2066\u2067\u2068\u2069\ufeff\ufff9\ufffa\ufffb"
)


# Where characters with a combining class or a canonical composition live in the first plane.
_COMPOSING = ((0x300, 0x3400), (0xA600, 0xAC00), (0xD7B0, 0xD800), (0xF900, 0xFB50), (0xFE20, 0xFE30))


# Vowel signs of Indic scripts that compose although they are no combining marks.
_SPACING_MARKS = frozenset(
    (
        0x9BE,
        0x9D7,
        0xB3E,
        0xB56,
        0xB57,
        0xBBE,
        0xBD7,
        0xCC2,
        0xCD5,
        0xCD6,
        0xD3E,
        0xD57,
        0xDCF,
        0xDDF,
        0x102E,
        0x1B35,
    )
)


@cache
def _composing() -> npt.NDArray[np.bool_]:
    """Which code points may compose with, or change places with, the one before, or never occur in NFC, [0x110000]."""
    table = np.zeros(0x110000, np.bool_)
    for first, end in _COMPOSING:
        table[first:end] = [
            unicodedata.combining(c) > 0 or not unicodedata.is_normalized("NFC", c)
            for c in map(chr, range(first, end))
        ]
    table[0x1161:0x11C3] = True  # Hangul vowels and finals
    table[list(_SPACING_MARKS)] = True
    table[0x10000:0x20000] = table[0x2F800:0x2FA20] = True  # rare: looked up when met
    return table


def may_compose(text: str) -> list[int]:
    """Positions of the characters that could make a text differ from its NFC."""
    return np.flatnonzero(_composing().take(_codes(text))).tolist()


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


def _pairs_of(charset: str, leads: range) -> set[str]:
    """The two-byte Han of a legacy character set."""
    found = set()
    for lead in leads:
        for trail in range(0x40, 0xFF):
            try:
                character = bytes((lead, trail)).decode(charset)
            except UnicodeDecodeError:
                continue
            if len(character) == 1 and "\u4e00" <= character <= "\u9fff":
                found.add(character)
    return found


@cache
def kinds() -> npt.NDArray[np.uint8]:
    """Class of every code point, [0x110000] uint8."""
    table = np.zeros(0x110000, np.uint8)
    for first, last in HAN_RANGES:
        table[first : last + 1] = Kind.HAN
    simplified, traditional = _pairs_of("gb2312", range(0xB0, 0xF8)), _pairs_of("big5", range(0xA4, 0xFA))
    groups = {
        Kind.SIMPLIFIED: simplified - traditional,
        Kind.TRADITIONAL: traditional - simplified,
        Kind.TAIGI: TAIGI_MARKERS,
        Kind.REPLACEMENT: "\ufffd",
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


def _codes(text: str) -> npt.NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def kinds_of(text: str) -> npt.NDArray[np.uint8]:
    """The kind of each character, [len(text)] uint8."""
    return kinds().take(_codes(text))


def count_kinds(of_characters: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Characters of each kind, [len(Kind)] int64."""
    return np.bincount(of_characters, minlength=len(Kind))


def census(text: str) -> npt.NDArray[np.int64]:
    """Characters of each kind, [len(Kind)] int64.

    >>> counts = census("阮兜佇台南 ê 海邊")
    >>> int(counts[Kind.TAIGI]), int(counts[Kind.TONE])
    (2, 1)
    """
    return count_kinds(kinds_of(text))


def taigi_score(counts: npt.NDArray[np.int64]) -> float:
    """How much the characters counted by `census` look like Taigi, from 0 to 1.

    Han text scores by the share of characters written in Taigi alone (1 from 3 % on), romanised text by the
    share of letters that carry a tone (1 from 12 % on); mixed text by both, a syllable of three letters
    weighing as much as one Han character. Romanisation with tone digits is not recognised.
    """
    _, other_han, taigi, simplified, traditional, latin, tones, *_ = counts.tolist()
    han = other_han + taigi + simplified + traditional
    letters = latin + tones
    if han + letters == 0:
        return 0.0
    written = min(1.0, taigi / (0.03 * han)) if han else 0.0
    spoken = min(1.0, tones / (0.12 * letters)) if letters else 0.0
    return float(round((han * written + letters / 3 * spoken) / (han + letters / 3), 4))


def looks_simplified(counts: npt.NDArray[np.int64]) -> bool:
    """Whether a text is itself Simplified Chinese: many characters only Simplified has, few only Traditional has.

    >>> looks_simplified(census("我们这个时候说话，还没听过这样的语言。" * 2))
    True
    >>> looks_simplified(census("个个攏講台語，才無愛佇庄跤。" * 5))
    False
    """
    simplified = int(counts[Kind.SIMPLIFIED])
    return simplified >= 10 and simplified > 4 * int(counts[Kind.TRADITIONAL] + counts[Kind.TAIGI])
