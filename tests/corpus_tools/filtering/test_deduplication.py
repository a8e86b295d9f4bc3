"""Duplicates among hashes: the first of each stays, also where only half of a hash agrees."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpus_tools.filtering import deduplication
from corpus_tools.filtering.deduplication import repeats

HALVES = st.sampled_from([b"a" * 8, b"b" * 8, b"c" * 8])


@given(st.lists(st.tuples(HALVES, HALVES), max_size=12), st.integers(0, 12), st.integers(1, 4))
def test_the_first_of_each_stays_whatever_the_blocks_and_groups(
    pairs: list[tuple[bytes, bytes]], parted_at: int, groups: int
) -> None:
    hashes = [first + second for first, second in pairs]
    blocks = [
        np.frombuffer(b"".join(part), np.uint64).reshape(-1, 2)
        for part in (hashes[:parted_at], hashes[parted_at:])
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(deduplication, "_AT_ONCE", max(1, len(hashes) // groups))
        later, first = repeats([lambda: blocks[0], lambda: blocks[1]], len(hashes))
    expected = {i: hashes.index(h) for i, h in enumerate(hashes) if h in hashes[:i]}
    assert dict(zip(later.tolist(), first.tolist(), strict=True)) == expected
