"""Exact duplicates by 128-bit hash: the first occurrence in source order stays."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import xxhash

HASH_BYTES = 16


def hash_text(text: str) -> bytes:
    """128-bit hash of a text's UTF-8 (xxh3; two of a billion different texts agree with odds of 1e-21)."""
    return hash_bytes(text.encode())


def hash_bytes(data: bytes) -> bytes:
    """128-bit hash (xxh3)."""
    return xxhash.xxh3_128_digest(data)


def find_duplicates(hashes: bytes) -> npt.NDArray[np.bool_]:
    """Which of n concatenated hashes repeat an earlier one, [n] bool.

    >>> find_duplicates(b"".join(map(hash_text, "aba"))).tolist()
    [False, False, True]
    """
    pairs = np.frombuffer(hashes, np.uint64).reshape(-1, 2)
    first = pairs[:, 0].copy()
    order = np.argsort(first, kind="stable")  # equal hashes stay in source order
    same = np.flatnonzero(first[order[1:]] == first[order[:-1]])
    earlier, later = order[same], order[same + 1]
    if (pairs[earlier, 1] != pairs[later, 1]).any():  # the other half decides, once in many billions
        order = np.lexsort((pairs[:, 0], pairs[:, 1]))
        later = order[1:][(pairs[order[1:]] == pairs[order[:-1]]).all(axis=1)]
    duplicate = np.zeros(len(pairs), np.bool_)
    duplicate[later] = True
    return duplicate
