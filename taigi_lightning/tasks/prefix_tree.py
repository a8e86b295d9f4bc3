"""Several token sequences as one row: what they share at their beginnings is computed once.

    sequences           row                       parents
    5 6 7 8             5 6 7 8 9                 -1 0 1 2 1
    5 6 9                   ^---- 9 branches here

A token sees itself and its ancestors, so each sequence's hidden states are what it would have alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain, pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class TokenTree(NamedTuple):
    """A prefix tree in the sorted order of its sequences, so a parent comes before its children."""

    tokens: list[int]
    parents: list[int]  # index of the node before this one; -1 at the root
    depths: list[int]  # tokens before this one: its position id
    starts: list[int]  # nodes that are not simply the next token of the one before them
    paths: list[list[int]]  # for each sequence the nodes it runs through

    @property
    def branches(self) -> bool:
        """Whether the tree is more than one sequence and its beginnings."""
        return len(self.starts) > 1


def token_tree(sequences: Sequence[Sequence[int]]) -> TokenTree:
    """Merge the common beginnings of sequences, none of them empty.

    >>> tree = token_tree([[5, 6, 7, 8], [5, 6, 9]])
    >>> tree.tokens, tree.parents, tree.depths, tree.starts, tree.paths[1]
    ([5, 6, 7, 8, 9], [-1, 0, 1, 2, 1], [0, 1, 2, 3, 2], [0, 4], [0, 1, 4])
    """
    tokens: list[int] = []
    parents: list[int] = []
    depths: list[int] = []
    starts: list[int] = []
    paths: dict[tuple[int, ...], list[int]] = {}
    keys = [tuple(sequence) for sequence in sequences]
    last: tuple[int, ...] = ()
    for key in sorted(set(keys)):  # in sorted order the one before shares most
        shared, node = common_prefix_length([last, key]), len(tokens)
        path = paths[last][:shared] if shared else []
        parent = path[-1] if path else -1
        if node == 0 or parent != node - 1:
            starts.append(node)
        tokens += key[shared:]
        parents += [parent, *range(node, len(tokens) - 1)]
        depths += range(shared, len(key))
        paths[key] = path + list(range(node, len(tokens)))
        last = key
    return TokenTree(tokens, parents, depths, starts, [paths[key] for key in keys])


def common_prefix_length(sequences: Sequence[list[int]] | Sequence[tuple[int, ...]]) -> int:
    """How many leading tokens all sequences share.

    >>> common_prefix_length([[1, 2, 3], [1, 2, 4, 5]])
    2
    """
    first, last = min(sequences), max(sequences)  # in sorted order the extremes differ earliest
    for place, (one, other) in enumerate(zip(first, last, strict=False)):
        if one != other:
            return place
    return min(len(first), len(last))


# ---- trees as padded rows -------------------------------------------------------------------------


def ancestor_mask(parents: Sequence[int]) -> Tensor:
    """Which tokens each token may attend to: itself and its ancestors.

    Args:
        parents: as in `TokenTree`.

    Returns:
        bool [T, T]; row i is the query.

    >>> ancestor_mask([-1, 0, 0]).int().tolist()
    [[1, 0, 0], [1, 1, 0], [1, 0, 1]]
    """
    length = len(parents)
    starts = [node for node, parent in enumerate(parents) if parent != node - 1 or node == 0]
    mask = torch.zeros(length, length, dtype=torch.bool)
    for start, end in zip(starts, [*starts[1:], length], strict=True):
        if parents[start] >= 0:
            mask[start:end] = mask[parents[start]]
        mask[start:end, start:end] = torch.ones(end - start, end - start, dtype=torch.bool).tril()
    return mask


def pad_trees(trees: Sequence[TokenTree]) -> tuple[Tensor, Tensor, Tensor | None]:
    """Right-padded rows, and the mask when a row branches.

    Right padding needs no mask: causal attention never looks at what comes later.

    Returns:
        input_ids [B, T] int64, position_ids [B, T] int64, mask [B, 1, T, T] bool or None when plain
        causal attention is correct. Padding holds token 0; where there is a mask it sees itself alone, at place 0,
        since a wide tree may have more nodes than a model has places.
    """
    width = max(len(tree.tokens) for tree in trees)
    input_ids = torch.zeros(len(trees), width, dtype=torch.int64)
    position_ids = torch.arange(width).repeat(len(trees), 1)
    for row, tree in enumerate(trees):
        input_ids[row, : len(tree.tokens)] = torch.tensor(tree.tokens)
        position_ids[row, : len(tree.tokens)] = torch.tensor(tree.depths)
    if not any(tree.branches for tree in trees):
        return input_ids, position_ids, None
    mask = torch.eye(width, dtype=torch.bool).repeat(len(trees), 1, 1, 1)  # [B, 1, T, T]
    for row, tree in enumerate(trees):
        length = len(tree.tokens)
        position_ids[row, length:] = 0
        mask[row, 0, :length, :length] = ancestor_mask(tree.parents)
    return input_ids, position_ids, mask


# ---- trees end to end -----------------------------------------------------------------------------


class PackedTrees(NamedTuple):
    """Trees end to end, M tokens in R runs: a run is nodes that follow one another, and sees ancestors and itself.

    The last query of a run sees all its keys, the one before it all but the last, and so on.
    """

    input_ids: Tensor  # int64 [M]
    position_ids: Tensor  # int64 [M]
    offsets: list[int]  # the first token of each tree, and M
    query_starts: Tensor  # int32 [R + 1], the first token of each run and M
    key_starts: Tensor  # int32 [R + 1], the first key of each run and their number K
    keys: Tensor | None  # int64 [K], tokens seen, run by run; None where every run sees just itself

    def to(self, device: torch.device) -> PackedTrees:
        """The same on a device."""
        return self._replace(
            input_ids=self.input_ids.to(device),
            position_ids=self.position_ids.to(device),
            query_starts=self.query_starts.to(device),
            key_starts=self.key_starts.to(device),
            keys=None if self.keys is None else self.keys.to(device),
        )


def pack_trees(trees: Sequence[TokenTree]) -> PackedTrees:
    """Lay trees end to end, without padding.

    >>> pack_trees([token_tree([[5, 6, 7, 8], [5, 6, 9]])]).keys
    tensor([0, 1, 2, 3, 0, 1, 4])
    """
    offsets, query_starts, key_starts, keys = [0], [0], [0], []
    branches = any(tree.branches for tree in trees)
    for tree in trees:
        offset = offsets[-1]
        for start, end in pairwise([*tree.starts, len(tree.tokens)]):
            ancestors = _ancestors(tree, start)
            if branches:
                keys += [offset + node for node in (*ancestors, *range(start, end))]
            query_starts.append(offset + end)
            key_starts.append(key_starts[-1] + len(ancestors) + end - start)
        offsets.append(offset + len(tree.tokens))
    return PackedTrees(
        _int64(tree.tokens for tree in trees),
        _int64(tree.depths for tree in trees),
        offsets,
        torch.tensor(query_starts, dtype=torch.int32),
        torch.tensor(key_starts, dtype=torch.int32),
        _int64([keys]) if branches else None,
    )


def _int64(parts: Iterable[Sequence[int]]) -> Tensor:
    """Parts end to end, [M]; several times faster than `torch.tensor`."""
    return torch.from_numpy(np.fromiter(chain.from_iterable(parts), np.int64))


def _ancestors(tree: TokenTree, node: int) -> list[int]:
    """The nodes above one, from the root down."""
    found = []
    while (node := tree.parents[node]) >= 0:
        found.append(node)
    return found[::-1]
