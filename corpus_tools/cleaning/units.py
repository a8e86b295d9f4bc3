"""What a text is long by when its script shall not matter: a romanised syllable counts one, as a Han character does."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from corpus_tools.cleaning.characters import codes_of


class Units(NamedTuple):
    """Han characters, digits of numbers, and romanised syllables or words: each weighs as much in a text.

    `hashes` [units] uint64; unit i is characters `starts[i]` to `ends[i]` of the text.
    """

    hashes: npt.NDArray[np.uint64]
    starts: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]


@cache
def _folded() -> npt.NDArray[np.uint32]:
    """Each code point's lower case, 0 for what is no letter or digit; [0x32400] uint32."""
    table = np.zeros(0x32400, np.uint32)
    for code in range(len(table)):
        character = chr(code)
        if character.isalnum():
            lower = character.lower()
            table[code] = ord(lower) if len(lower) == 1 else code
    return table


def units_of(text: str) -> Units:
    """The units of a text, in order; punctuation, spaces and line breaks only part words.

    >>> units = units_of("我食 tsioo-kóo-lè2 2010。")
    >>> [text for text in map("我食 tsioo-kóo-lè2 2010。".__getitem__, map(slice, units.starts, units.ends))]
    ['我', '食', 'tsioo', 'kóo', 'lè2', '2', '0', '1', '0']
    """
    codes, table = codes_of(text), _folded()
    folded = np.where(codes < len(table), table[np.minimum(codes, len(table) - 1)], 0).astype(np.uint64)
    marks = (codes >= 0x300) & (codes < 0x370)  # part of the letter before
    places = np.flatnonzero(folded)
    if not len(places):
        return Units(folded[:0], places, places)
    letters = folded[places]
    romanised = (letters < 0x2E80) & ~_is_digit(letters)
    joined = places[1:] - np.cumsum(marks)[places[1:]] == places[:-1] - np.cumsum(marks)[places[:-1]] + 1
    # A letter goes on a romanised word, and so does the digit behind it, which is its tone.
    goes_on = joined & romanised[:-1] & (romanised[1:] | _is_digit(letters[1:]))
    begins = np.flatnonzero(np.append(True, ~goes_on))
    ordinals = np.arange(len(letters)) - np.repeat(begins, np.diff(np.append(begins, len(letters))))
    powers = _powers()[np.minimum(ordinals, len(_powers()) - 1)]
    hashes = np.add.reduceat((letters + np.uint64(1)) * powers, begins)
    return Units(hashes, places[begins], places[np.append(begins[1:], len(letters)) - 1] + 1)


def _is_digit(letters: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    return letters - np.uint64(ord("0")) < 10  # what is smaller wraps around


@cache
def _powers() -> npt.NDArray[np.uint64]:
    """The weight of a letter by its place in the word."""
    return np.array([pow(0x9E3779B97F4A7C15, k, 1 << 64) for k in range(64)], np.uint64)
