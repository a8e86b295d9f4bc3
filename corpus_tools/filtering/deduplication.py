"""Exact duplicates by 128-bit hash, of texts or of their letters alone: the first in source order stays."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64_intdigest
from xxhash import xxh3_128_digest as hash_bytes

from corpus_tools.documents import HALF_WIDTH, key_of_name

__all__ = [
    "HASH_BYTES", "NO_HASH", "Sameness", "hash_bytes", "hash_names", "hash_text", "key_of", "repeats",
]  # fmt: skip

Sameness = Literal["exact", "normalised"]
Block = Callable[[], npt.NDArray[np.uint64]]

HASH_BYTES = 16
NO_HASH = bytes(HASH_BYTES)  # of what may repeat
_AT_ONCE = 1 << 19  # hashes sorted together


def hash_text(text: str) -> bytes:
    """128-bit hash of a text's UTF-8 (xxh3; two of a billion different texts agree with odds of 1e-21)."""
    return hash_bytes(text.encode())


def hash_names(title: str | None, author: str | None) -> tuple[int, int]:
    """64-bit hashes of a title and its author, 0 where there is none.

    Together they find rows that may belong to one article; the names themselves then decide.
    """
    # Half a surrogate pair is no text: the row that has it is found to be bad when it is read.
    first, second = (
        xxh3_64_intdigest(name.encode(errors="surrogatepass")) if name else 0
        for name in map(key_of_name, (title, author))
    )
    return first, second


_NO_LETTERS = re.compile(r"[^\w\u0300-\u036f]+|_+")


def _letters(text: bytes | memoryview) -> bytes:
    return _NO_LETTERS.sub(
        "", unicodedata.normalize("NFC", str(text, "utf-8").translate(HALF_WIDTH))
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


def repeats(blocks: Sequence[Block], count: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Among the hashes of some blocks, `count` in all, the places of those that repeat an earlier one, and of the first
    one like each; `NO_HASH` is like none.

    A block is called, perhaps many times, for its hashes, [n, 2] uint64: they need not be in memory together, for they
    are compared in groups that share no hash.

    >>> pairs = np.frombuffer(b"".join(map(hash_text, "abab")), np.uint64).reshape(-1, 2)
    >>> [places.tolist() for places in repeats([lambda: pairs[:3], lambda: pairs[3:]], 4)]
    [[2, 3], [0, 1]]
    """
    groups = 1 + count // _AT_ONCE
    found = [_repeats_of_group(blocks, number, groups) for number in range(groups)]
    later, first = (np.concatenate(places) for places in zip(*found, strict=True))
    return later, first


def _repeats_of_group(
    blocks: Sequence[Block], number: int, groups: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    pairs, places, at = [np.zeros((0, 2), np.uint64)], [np.zeros(0, np.int64)], 0
    for block in blocks:
        hashes = block()
        wanted = hashes.any(axis=1)
        if groups > 1:
            wanted &= hashes[:, 0] % np.uint64(groups) == number
        chosen = np.flatnonzero(wanted)
        pairs.append(hashes[chosen])
        places.append(chosen + at)
        at += len(hashes)
    place = np.concatenate(places)
    later, earliest = _repeats(np.concatenate(pairs))
    return place[later], place[earliest]


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
