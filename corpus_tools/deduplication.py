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
    order = np.lexsort((pairs[:, 0], pairs[:, 1]))  # stable: equal hashes stay in source order
    ordered = pairs[order]
    duplicate = np.zeros(len(pairs), np.bool_)
    if len(pairs):
        duplicate[order[1:]] = (ordered[1:] == ordered[:-1]).all(axis=1)
    return duplicate
