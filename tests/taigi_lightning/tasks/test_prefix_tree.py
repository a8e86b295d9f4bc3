"""Sequences that share a beginning, as one row."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from taigi_lightning.tasks.prefix_tree import (
    ancestor_mask,
    common_prefix_length,
    pack_trees,
    pad_trees,
    token_tree,
)

SEQUENCES = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=8), min_size=1, max_size=5)


@given(SEQUENCES)
def test_each_path_spells_its_sequence(sequences: list[list[int]]) -> None:
    tree = token_tree(sequences)
    for sequence, path in zip(sequences, tree.paths, strict=True):
        assert [tree.tokens[node] for node in path] == sequence
        assert [tree.depths[node] for node in path] == list(range(len(sequence)))


@given(SEQUENCES)
def test_a_shared_beginning_is_stored_once(sequences: list[list[int]]) -> None:
    beginnings = {tuple(s[: end + 1]) for s in sequences for end in range(len(s))}
    assert len(token_tree(sequences).tokens) == len(beginnings)


@given(SEQUENCES)
def test_a_token_sees_exactly_its_own_beginning(sequences: list[list[int]]) -> None:
    tree = token_tree(sequences)
    mask = ancestor_mask(tree.parents)
    for path in tree.paths:
        for depth, node in enumerate(path):
            assert mask[node].nonzero().flatten().tolist() == sorted(path[: depth + 1])


def test_rows_without_branches_need_no_mask() -> None:
    input_ids, position_ids, mask = pad_trees([token_tree([[5, 6, 7]]), token_tree([[8]])])
    assert input_ids.tolist() == [[5, 6, 7], [8, 0, 0]]
    assert position_ids.tolist() == [[0, 1, 2], [0, 1, 2]]
    assert mask is None


def test_every_padding_token_sees_something() -> None:
    """A query that sees nothing would give NaN, and NaN spreads."""
    _, position_ids, mask = pad_trees([token_tree([[5, 6], [5, 7]]), token_tree([[8]])])
    assert position_ids.tolist() == [[0, 1, 1], [0, 0, 0]]
    assert mask is not None
    assert bool(mask.any(dim=-1).all())
    assert torch.equal(mask[1, 0], torch.eye(3, dtype=torch.bool))


@given(st.lists(SEQUENCES, min_size=1, max_size=3))
def test_packed_runs_cover_each_tree_once_and_see_what_the_mask_allows(groups: list[list[list[int]]]) -> None:
    trees = [token_tree(sequences) for sequences in groups]
    packed = pack_trees(trees)
    mask = torch.block_diag(*(ancestor_mask(tree.parents) for tree in trees)).bool()
    seen = torch.zeros_like(mask)
    keys = torch.arange(len(mask)) if packed.keys is None else packed.keys
    for run in range(len(packed.query_starts) - 1):
        begin, end = packed.query_starts[run : run + 2].tolist()
        first, last = packed.key_starts[run : run + 2].tolist()
        for query in range(begin, end):
            seen[query, keys[first : last - (end - 1 - query)]] = True
    assert torch.equal(seen, mask)
    assert packed.input_ids.tolist() == [token for tree in trees for token in tree.tokens]


def test_packed_rows_without_branches_need_no_keys() -> None:
    packed = pack_trees([token_tree([[5, 6, 7]]), token_tree([[8, 9]])])
    assert packed.input_ids.tolist() == [5, 6, 7, 8, 9]
    assert packed.position_ids.tolist() == [0, 1, 2, 0, 1]
    assert packed.offsets == [0, 3, 5]
    assert packed.query_starts.tolist() == packed.key_starts.tolist() == [0, 3, 5]
    assert packed.keys is None


def test_common_prefix() -> None:
    assert common_prefix_length([[1, 2, 3], [1, 2, 3, 4]]) == 3
    assert common_prefix_length([[1], [2]]) == 0
