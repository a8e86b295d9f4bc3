"""Which characters stand for others, which are Han, and which may compose."""

from __future__ import annotations

import unicodedata
from functools import cache
from typing import TypeVar

import numpy as np
import numpy.typing as npt

T = TypeVar("T", bound=np.generic)

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

# Vowel signs of Indic scripts that compose although they are no combining marks, Hangul vowels and finals.
_SPACING_MARKS = (
    *(0x9BE, 0x9D7, 0xB3E, 0xB56, 0xB57, 0xBBE, 0xBD7, 0xCC2),
    *(0xCD5, 0xCD6, 0xD3E, 0xD57, 0xDCF, 0xDDF, 0x102E, 0x1B35),
    *range(0x1161, 0x11C3),
)


@cache
def composing() -> npt.NDArray[np.bool_]:
    """Which code points may compose with, or change places with, the one before, or never occur in NFC, [0x110000]."""
    table = np.zeros(0x110000, np.bool_)
    for first, end in _COMPOSING:
        table[first:end] = [
            unicodedata.combining(c) > 0 or not unicodedata.is_normalized("NFC", c)
            for c in map(chr, range(first, end))
        ]
    table[list(_SPACING_MARKS)] = True
    table[0x10000:0x20000] = table[0x2F800:0x2FA20] = True  # rare: looked up when met
    return table


def may_compose(text: str) -> list[int]:
    """Positions of the characters that could make a text differ from its NFC."""
    return np.flatnonzero(look_up(composing(), codes_of(text))).tolist()


def look_up(table: npt.NDArray[T], codes: npt.NDArray[np.uint32]) -> npt.NDArray[T]:
    """The entry of a table [0x110000] for each code point."""
    return table.take(codes, mode="clip")  # none lies outside; the check for it takes longer than the rest


def codes_of(text: str) -> npt.NDArray[np.uint32]:
    """The code point of each character, [len(text)] uint32."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
