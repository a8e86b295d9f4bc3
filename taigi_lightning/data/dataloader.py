"""Which rank sees which batch when, and how a run that was interrupted finds its place again."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Sampler

from taigi_lightning.data.collate import pad_right
from taigi_lightning.data.mixture import MixedBlocks
from taigi_lightning.data.packing import Blocks
from taigi_lightning.errors import InputError
from taigi_lightning.signals import leave_signals_to_parent

Batch = dict[str, Any]  # tensors, `window_tokens`, an int, and `source`, a str


class EpochBatches(Sampler[list[int]]):
    """One rank's batches of an epoch, a pure function of (seed, epoch, rank, ranks).

    All ranks have equally many batches, all of `batch_size`, and every item belongs to exactly one batch of
    one rank. Where the items do not come out even, the last batches are filled up with ~i for items i,
    which `Blocks` gives without labels: nothing is trained on twice and nothing is left out.

    Args:
        items: How many there are.
        batch_size: Items of a batch.
        seed: Shuffles every epoch anew; None keeps the order.
        rank: This process.
        ranks: All processes.
        order: Gives an epoch's items, [items] int64, by the seed and the epoch; None: each item once.
    """

    def __init__(
        self,
        items: int,
        batch_size: int,
        *,
        seed: int | None,
        rank: int = 0,
        ranks: int = 1,
        order: Callable[[int | None, int], NDArray[np.int64]] | None = None,
    ) -> None:
        self.items = items
        # The command line's own kind of int would not load from a checkpoint.
        self.batch_size = int(batch_size)
        self.seed = seed
        self.rank = rank
        self.ranks = ranks
        self._epoch_items = order or self._each_once
        self.epoch = 0
        self.start = 0  # the first batch to give

    def __len__(self) -> int:
        return math.ceil(self.items / (self.batch_size * self.ranks))

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.order()[self.start :, self.rank].tolist())

    def order(self) -> NDArray[np.int64]:
        """This epoch's items, [batches, ranks, batch_size]; ~i is a filler."""
        order = self._epoch_items(self.seed, self.epoch)
        missing = len(self) * self.batch_size * self.ranks - self.items
        filled = np.concatenate((order, np.resize(~order, missing)))
        return filled.reshape(len(self), self.ranks, self.batch_size)

    def _each_once(self, seed: int | None, epoch: int) -> NDArray[np.int64]:
        order = np.arange(self.items)
        if seed is None:
            return order
        return np.random.Generator(np.random.PCG64([seed, epoch])).permutation(order)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch to give next; Lightning calls it."""
        self.epoch = epoch


class ResumableLoader:
    """A loader that Lightning checkpoints: its state is how many batches the trainer has taken.

    It is no `DataLoader`, so that Lightning never gives it another sampler. The place is counted where the
    trainer takes a batch, so that batches which workers have prepared ahead do not count.

    Args:
        blocks: The data.
        sampler: This rank's batches.
        num_workers: Processes that prepare batches; 0 prepares them in this one.
        source: What the rows are of; each batch then says so under `source`.
        windows: Gives the batches of an accumulation window and those of an epoch, once an epoch begins. Each batch
            then says under `window_tokens` how many supervised tokens its window has, over all ranks; a batch's
            loss, divided by that, has the gradients of one batch with the whole window.
        moved: Told by how many batches the place in the epoch is further than its checkpoint says, when a run goes on
            with another number of ranks, which divides an epoch into another number of batches.
    """

    def __init__(
        self,
        blocks: Blocks | MixedBlocks,
        sampler: EpochBatches,
        *,
        num_workers: int = 0,
        source: str | None = None,
        windows: Callable[[], tuple[int, float]] | None = None,
        moved: Callable[[int], None] | None = None,
    ) -> None:
        self.blocks = blocks
        self.sampler = sampler  # Lightning tells it the epoch
        self.batch_sampler = None  # Lightning asks a validation loader for it
        self.waited = 0.0  # seconds that the trainer has waited for batches
        self._source = source
        self._windows = windows
        self._moved = moved
        self._taken = 0
        self._resume: tuple[int, int] | None = None  # (epoch, batches taken of it)
        self._loader = DataLoader(
            blocks,
            batch_sampler=sampler,
            num_workers=num_workers,
            # Given to workers, which some systems start anew: nothing of the trainer may hang on it.
            collate_fn=partial(
                pad_right, pad_id=blocks.pad_id, multiple_of=8 if blocks.packing.width is None else 1
            ),
            worker_init_fn=leave_signals_to_parent,
            pin_memory=torch.cuda.is_available(),
        )

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Batch]:
        # Nothing here runs before the first batch is asked for: by then Lightning has set the epoch.
        epoch, taken = self._resume or (0, 0)
        self._resume = None
        self.sampler.start = self._taken = taken if epoch == self.sampler.epoch else 0
        tokens = self._window_tokens() if self._windows else None
        began = time.perf_counter()
        for batch in self._loader:
            if tokens is not None:
                batch["window_tokens"] = int(tokens[self._taken])
            if self._source is not None:
                batch["source"] = self._source
            self._taken += 1
            self.waited += time.perf_counter() - began
            yield batch
            began = time.perf_counter()

    def _window_tokens(self) -> NDArray[np.int64]:
        """Supervised tokens of the accumulation window that each batch of the epoch is in, over all ranks: [batches].

        Lightning steps whenever so many batches of the epoch have been taken, and after its last one; a run that
        goes on between two such places has a shorter first window.
        """
        assert self._windows is not None
        size, epoch = self._windows()
        order = self.sampler.order()
        tokens = np.where(order >= 0, self.blocks.targets[order], 0).sum(axis=(1, 2))
        tokens[: self.sampler.start] = 0
        tokens[int(min(epoch, len(order))) :] = 0
        windows = np.add.reduceat(tokens, np.arange(0, len(tokens), size))
        return np.repeat(windows, size)[: len(tokens)]

    def state_dict(self) -> dict[str, Any]:
        """The place in the epoch, in plain values; it is the same on every rank."""
        sampler = self.sampler
        return {
            "epoch": sampler.epoch,
            "batches": self._taken,
            "items": sampler.items,
            "batch_size": sampler.batch_size,
            "ranks": sampler.ranks,
            "seed": sampler.seed,
            "data": self.blocks.digest,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where the checkpoint stood, also with other ranks or batches if they come out even.

        Raises:
            InputError: in the middle of an epoch the data, their order or their division do not fit.
        """
        sampler = self.sampler
        given = state["batches"] * state["batch_size"] * state["ranks"]
        if given >= state["items"]:
            batches = len(self)
        else:
            self._check_same_data(state)
            batches, rest = divmod(given, sampler.batch_size * sampler.ranks)
            if rest:
                raise InputError(
                    f"The checkpoint stands in the middle of an epoch, {given} rows in, which "
                    f"{sampler.ranks} processes with batches of {sampler.batch_size} cannot reach evenly. "
                    f"Resume with {state['ranks']} processes and batches of {state['batch_size']}, or from "
                    "the end of an epoch."
                )
        self._resume = (state["epoch"], batches)
        if self._moved is not None:
            self._moved(batches - state["batches"])

    def _check_same_data(self, state: dict[str, Any]) -> None:
        if state["data"] != self.blocks.digest:
            raise InputError(
                "The training data are not those of the checkpoint (other texts or shares, tokenizer, "
                "max_length or packing), and it stands in the middle of an epoch. Restore them, or start anew without "
                "--ckpt_path."
            )
        if state["seed"] != self.sampler.seed:
            raise InputError(
                f"The checkpoint's data were shuffled with seed {state['seed']}, this run's with "
                f"{self.sampler.seed}. Set seed_everything to {state['seed']} to go on in mid-epoch."
            )
