"""Duplicates among hashes: the first of each stays, also where only half of a hash agrees."""

from hypothesis import given
from hypothesis import strategies as st

from corpus_tools.filtering.deduplication import find_duplicates, first_places

HALVES = st.sampled_from([b"a" * 8, b"b" * 8, b"c" * 8])


@given(st.lists(st.tuples(HALVES, HALVES), max_size=12))
def test_the_first_of_each_stays(pairs: list[tuple[bytes, bytes]]) -> None:
    hashes = [first + second for first, second in pairs]
    expected = [h in hashes[:i] for i, h in enumerate(hashes)]
    assert find_duplicates(b"".join(hashes)).tolist() == expected
    assert first_places(b"".join(hashes)).tolist() == list(map(hashes.index, hashes))
