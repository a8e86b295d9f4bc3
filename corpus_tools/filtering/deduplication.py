"""Exact duplicates by 128-bit hash, of texts or of their letters alone: the first in source order stays."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from typing import Literal

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_128_digest as hash_bytes

__all__ = ["HASH_BYTES", "NO_HASH", "Sameness", "find_duplicates", "hash_bytes", "hash_text", "key_of"]

Sameness = Literal["exact", "normalised"]

HASH_BYTES = 16
NO_HASH = bytes(HASH_BYTES)  # of what may repeat
_AT_ONCE = 1 << 19  # hashes sorted together


def hash_text(text: str) -> bytes:
    """128-bit hash of a text's UTF-8 (xxh3; two of a billion different texts agree with odds of 1e-21)."""
    return hash_bytes(text.encode())


_NO_LETTERS = re.compile(r"[^\w\u0300-\u036f]+|_+")
_HALF_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}


def _letters(text: bytes | memoryview) -> bytes:
    return _NO_LETTERS.sub(
        "", unicodedata.normalize("NFC", str(text, "utf-8").translate(_HALF_WIDTH))
    ).encode()


def key_of(duplicates: Sameness) -> Callable[[bytes | memoryview], bytes | memoryview]:
    """By what texts in UTF-8 are the same: all of it, or its letters in NFC and one width, without marks and spaces.

    >>> key = key_of("normalised")
    >>> key("伊講：「好 ！」ＯＫ".encode()) == key("伊講:好!OK".encode())
    True
    """
    return _letters if duplicates == "normalised" else _whole


def _whole(text: bytes | memoryview) -> bytes | memoryview:
    return text


def find_duplicates(hashes: bytes | npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    """Which of n concatenated hashes repeat an earlier one, [n] bool; `NO_HASH` never does.

    Beyond the hashes it takes a few bytes for each: they are sorted in groups that share no hash.

    >>> find_duplicates(b"".join(map(hash_text, "aba"))).tolist()
    [False, False, True]
    """
    first = first_places(hashes)
    return first < np.arange(len(first))


def first_places(hashes: bytes | npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """For each of n concatenated hashes the place of the first one like it, [n] int64; `NO_HASH` is like none.

    >>> first_places(b"".join(map(hash_text, "abab"))).tolist()
    [0, 1, 0, 1]
    """
    pairs = np.frombuffer(hashes, np.uint64).reshape(-1, 2)
    firsts = np.arange(len(pairs))
    groups = 1 + len(pairs) // _AT_ONCE
    group = (pairs[:, 0] % np.uint64(groups)).astype(np.uint16)
    for number in range(groups):
        places = np.flatnonzero(group == number)
        places = places[pairs[places].any(axis=1)]
        later, earliest = _repeats(pairs[places])
        firsts[places[later]] = places[earliest]
    return firsts


def _repeats(pairs: npt.NDArray[np.uint64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Indices of the pairs that repeat an earlier one, and of the first pair like each."""
    first = pairs[:, 0]
    order = np.argsort(first, kind="stable")  # equal hashes stay in source order
    same = first[order[1:]] == first[order[:-1]]
    if (pairs[order[1:], 1] != pairs[order[:-1], 1])[
        same
    ].any():  # the other half decides, once in many billions
        order = np.lexsort((first, pairs[:, 1]))
        same = (pairs[order[1:]] == pairs[order[:-1]]).all(axis=1)
    later = np.flatnonzero(same) + 1
    runs = (
        np.maximum.accumulate(np.where(np.append(True, ~same), np.arange(len(order)), 0))
        if len(order)
        else later
    )
    return order[later], order[runs[later]]
