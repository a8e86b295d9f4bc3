"""Several token sequences as one row: what they share at their beginnings is computed once.

    sequences           row                       parents
    5 6 7 8             5 6 7 8 9                 -1 0 1 2 1
    5 6 9                   ^---- 9 branches here

A token sees itself and its ancestors, so each sequence's hidden states are what it would have alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class TokenTree(NamedTuple):
    """A prefix tree in the order its nodes were first needed, so a parent comes before its children."""

    tokens: list[int]
    parents: list[int]  # index of the node before this one; -1 at the root
    depths: list[int]  # tokens before this one: its position id
    paths: list[list[int]]  # for each sequence the nodes it runs through

    @property
    def branches(self) -> bool:
        """Whether any node is not simply the next token of the one before it."""
        return any(parent != node - 1 for node, parent in enumerate(self.parents))


def token_tree(sequences: Sequence[Sequence[int]]) -> TokenTree:
    """Merge the common beginnings of sequences.

    >>> tree = token_tree([[5, 6, 7, 8], [5, 6, 9]])
    >>> tree.tokens, tree.parents, tree.depths, tree.paths[1]
    ([5, 6, 7, 8, 9], [-1, 0, 1, 2, 1], [0, 1, 2, 3, 2], [0, 1, 4])
    """
    tokens: list[int] = []
    parents: list[int] = []
    depths: list[int] = []
    paths: list[list[int]] = []
    children: dict[tuple[int, int], int] = {}
    known: dict[tuple[int, ...], list[int]] = {}  # answers of one token leave four equal sequences
    for sequence in sequences:
        if (path := known.setdefault(tuple(sequence), [])) or not sequence:
            paths.append(path)
            continue
        node = -1
        for depth, token in enumerate(sequence):
            child = children.setdefault((node, token), len(tokens))
            if child == len(tokens):
                tokens.append(token)
                parents.append(node)
                depths.append(depth)
            node = child
            path.append(node)
        paths.append(path)
    return TokenTree(tokens, parents, depths, paths)


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
        causal attention is right. Padding holds token 0 and sees itself alone where there is a mask.
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
        mask[row, 0, :length, :length] = ancestor_mask(tree.parents)
    return input_ids, position_ids, mask
