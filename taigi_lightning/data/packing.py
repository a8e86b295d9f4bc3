"""Documents of any length → blocks of one length, with document boundaries and nothing dropped."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from taigi_lightning.tasks.prompts import IGNORE

Row = dict[str, NDArray[np.int64]]  # input_ids, labels, position_ids, each [T] int64


@dataclass(frozen=True)
class Packing:
    """Which pieces of the documents' tokens make up each block.

    `starts` [P] int64 and `lengths` [P] int64 place each piece in the documents' tokens laid end to end;
    block b holds the pieces `offsets[b]:offsets[b + 1]`. `width` is the blocks' common length, or None where
    a block is as long as what it holds. `cut` counts the documents that were longer than a block.
    """

    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    offsets: NDArray[np.int64]
    width: int | None
    cut: int

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def padding_share(self) -> float:
        """Padding tokens among all tokens of the blocks, 0 to 1."""
        if self.width is None or not len(self):
            return 0.0
        return 1.0 - float(self.lengths.sum()) / (len(self) * self.width)


def pack_documents(lengths: NDArray[np.int64], max_length: int) -> Packing:
    """Pack documents into as few blocks of `max_length` tokens as best-fit decreasing finds.

    A document longer than a block is cut into consecutive pieces, all but the last a whole block. The
    result depends on the lengths alone; inside a block the documents keep their order.

    Args:
        lengths: Tokens of each document, [D].
        max_length: Tokens of a block.
    """
    starts, pieces, cut = _cut_documents(lengths, max_length)
    block = best_fit_decreasing(pieces, max_length)
    order = np.argsort(block, kind="stable")
    offsets = np.concatenate(([0], np.cumsum(np.bincount(block))))
    return Packing(starts[order], pieces[order], offsets.astype(np.int64), max_length, cut)


def separate_documents(lengths: NDArray[np.int64], max_length: int) -> Packing:
    """Give each document, or each piece of one longer than `max_length`, a row of its own."""
    starts, pieces, cut = _cut_documents(lengths, max_length)
    return Packing(starts, pieces, np.arange(len(pieces) + 1), None, cut)


def _cut_documents(
    lengths: NDArray[np.int64], max_length: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """Cut documents into pieces of at most `max_length`: their starts, their lengths, documents cut."""
    lengths = np.asarray(lengths, dtype=np.int64)
    counts = -(-lengths // max_length)
    first = np.cumsum(counts) - counts
    number = np.arange(counts.sum()) - np.repeat(first, counts)  # of a piece within its document
    starts = np.repeat(np.cumsum(lengths) - lengths, counts) + number * max_length
    pieces = np.minimum(np.repeat(lengths, counts) - number * max_length, max_length)
    return starts, pieces, int((counts > 1).sum())


def best_fit_decreasing(lengths: NDArray[np.int64], capacity: int) -> NDArray[np.int64]:
    """Assign items to bins, longest first, each to the open bin it fills best.

    Open bins are kept by the tokens they can still take, and one integer has a bit set for each such number, so
    that the tightest fit is its lowest set bit: half a million items take about a second.

    Args:
        lengths: The items' lengths, each 1 to `capacity`, [N].
        capacity: What a bin holds.

    Returns:
        The bin of each item, [N] int64; bins are numbered from 0 without gaps.

    >>> best_fit_decreasing(np.array([2, 7, 5, 3, 3]), 10).tolist()
    [1, 0, 1, 0, 1]
    """
    bins = np.empty(len(lengths), dtype=np.int64)
    with_free: list[list[int]] = [[] for _ in range(capacity + 1)]
    free_sizes, opened = 0, 0
    sizes = lengths.tolist()
    for item in np.argsort(-lengths, kind="stable").tolist():
        size = sizes[item]
        fitting = free_sizes >> size
        if fitting:
            free = size + (fitting & -fitting).bit_length() - 1
            chosen = with_free[free].pop()
            if not with_free[free]:
                free_sizes ^= 1 << free
        else:
            free, chosen, opened = capacity, opened, opened + 1
        bins[item] = chosen
        if left := free - size:
            with_free[left].append(chosen)
            free_sizes |= 1 << left
    return bins


class Blocks(Dataset[Row]):
    """Blocks ready to train on: item i is a dict of `input_ids`, `labels`, `position_ids`, each [T] int64.

    `position_ids` restart at 0 with every document, whose first token is never a target, and with the
    padding behind the last one. Item ~i is block i with every label -100: it fills up a batch without being
    trained on twice.

    Args:
        tokens: The documents' token ids laid end to end, [N] int32.
        labels: Their labels, unshifted, -100 where unsupervised, [N] int32; `tokens` itself trains on all.
        packing: Where the blocks' pieces lie.
        pad_id: The padding token.
    """

    def __init__(
        self, tokens: NDArray[np.int32], labels: NDArray[np.int32], packing: Packing, pad_id: int
    ) -> None:
        self.tokens = tokens
        self.labels = labels
        self.packing = packing
        self.pad_id = pad_id

    def __len__(self) -> int:
        return len(self.packing)

    def __getitem__(self, index: int) -> Row:
        packing, block = self.packing, max(index, ~index)
        pieces = slice(packing.offsets[block], packing.offsets[block + 1])
        starts, lengths = packing.starts[pieces].tolist(), packing.lengths[pieces].tolist()
        width = packing.width or sum(lengths)
        input_ids = np.full(width, self.pad_id, dtype=np.int64)
        labels = np.full(width, IGNORE, dtype=np.int64)
        position_ids = np.arange(width, dtype=np.int64)
        at = 0
        for start, length in zip(starts, lengths, strict=True):
            input_ids[at : at + length] = self.tokens[start : start + length]
            if index >= 0:
                labels[at + 1 : at + length] = self.labels[start + 1 : start + length]
            position_ids[at : at + length] -= at
            at += length
        position_ids[at:] -= at
        return {"input_ids": input_ids, "labels": labels, "position_ids": position_ids}

    @property
    def supervised_tokens(self) -> int:
        """Tokens that are a target once an epoch."""
        return int(self.targets.sum())

    @cached_property
    def targets(self) -> NDArray[np.int64]:
        """How many tokens of each block are a target, [len(self)] int64."""
        packing, supervised = self.packing, self.labels != IGNORE
        before = np.concatenate(([0], np.cumsum(supervised)))
        pieces = before[packing.starts + packing.lengths] - before[packing.starts]
        pieces -= supervised[packing.starts]  # a piece's first token is no target
        until = np.concatenate(([0], np.cumsum(pieces)))
        found: NDArray[np.int64] = until[packing.offsets[1:]] - until[packing.offsets[:-1]]
        return found

    @cached_property
    def digest(self) -> str:
        """Identify what is trained on: equal data, cut and packed equally, have equal digests."""
        digest = hashlib.blake2b(digest_size=16)
        packing = self.packing
        for array in (self.tokens, self.labels, packing.starts, packing.lengths, packing.offsets):
            digest.update(np.ascontiguousarray(array).data)
        digest.update(str(packing.width).encode())
        return digest.hexdigest()
