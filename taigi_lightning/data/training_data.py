"""What the data modules of both stages share: splits, and loaders over their rows."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import numpy as np
from torch import distributed

from taigi_lightning.data.dataloader import EpochBatches, ResumableLoader
from taigi_lightning.data.mixture import MixedBlocks, read_weights
from taigi_lightning.data.packing import Blocks, pack_documents, separate_documents
from taigi_lightning.errors import InputError
from taigi_lightning.internals import move_batches, run_seed
from taigi_lightning.planning.monitors import source_names
from taigi_lightning.tasks.prompts import Example
from taigi_lightning.terminal import joined

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Split:
    """One split, ready for a loader, and what it holds.

    `documents` counts documents or examples, as `unit` says, and `cut` those too long for a row: documents
    divided into pieces, or examples whose passage was shortened. `characters` is the length of the texts or
    passages before encoding. `left_out` counts examples whose answer alone is too long for a row.
    """

    blocks: Blocks
    unit: str
    documents: int
    cut: int
    characters: int
    left_out: int = 0

    def __str__(self) -> str:
        packing = self.blocks.packing
        cut = f" ({self.cut:,} cut to fit)" if self.cut else ""
        cut += f" ({self.left_out:,} left out, as their answers do not fit)" if self.left_out else ""
        padding = f", {packing.padding_share:.1%} padding" if packing.width else ""
        return (
            f"{self.documents:,} {self.unit}{cut} in {len(packing):,} rows: "
            f"{packing.lengths.sum():,} tokens, {self.blocks.supervised_tokens:,} of them supervised{padding}"
        )


def examples_split(
    examples: Sequence[Example],
    pad_id: int,
    max_length: int,
    *,
    packing: bool,
    characters: int,
    left_out: int = 0,
) -> Split:
    """A split of examples, each of which fits into a row.

    Args:
        examples: at least one.
        pad_id: the padding token.
        max_length: tokens of a row.
        packing: put several examples into each row.
        characters: of their texts before encoding.
        left_out: how many more there were whose answers do not fit.
    """
    tokens = np.concatenate([np.asarray(example.input_ids, dtype=np.int32) for example in examples])
    labels = np.concatenate([np.asarray(example.labels, dtype=np.int32) for example in examples])
    lengths = np.array([len(example.input_ids) for example in examples], dtype=np.int64)
    arrange = pack_documents if packing else separate_documents
    blocks = Blocks(tokens, labels, arrange(lengths, max_length), pad_id)
    cut = sum(example.cut_characters > 0 for example in examples)
    return Split(blocks, "examples", len(examples), cut, characters, left_out)


class TrainingData(pl.LightningDataModule):
    """Loaders over a training split and, perhaps, a validation split; of one source, or of several in given shares.

    Of one source the splits are called `train` and `validation`. Of several there is one of each source, such as
    `train cpt_corpus`: they are mixed as `MixedBlocks` says, and validated on one after the other.

    Args:
        sources: a path; or paths, each with its share of the rows, in any unit.
        batch_size: rows in a micro-batch.
        num_workers: processes that prepare batches.

    Raises:
        InputError: batch_size is below 1, or a share is not above 0.
    """

    def __init__(self, sources: str | Mapping[str, float], batch_size: int, num_workers: int) -> None:
        super().__init__()
        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size}. Set it to 1 or more.")
        weights = {sources: 1.0} if isinstance(sources, str) else read_weights(sources, type(self).__name__)
        self.weights = dict(weights)
        self.sources = tuple(self.weights)  # recorded with the trained model
        self.source = ", ".join(self.sources)
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.splits: dict[str, Split] = {}
        self.packing = False

    def summary(self) -> str:
        """What is trained and validated on, one line a split; empty before `setup`."""
        return joined(*(f"{name}{self._share_of(name)}: {split}" for name, split in self.splits.items()))

    def _share_of(self, split: str) -> str:
        kind, _, label = split.partition(" ")
        if kind != "train" or not label:
            return ""
        weights = dict(zip(self.labels, self.weights.values(), strict=True))
        return f" ({weights[label] / sum(weights.values()):.1%} of the rows)"

    @property
    def labels(self) -> list[str]:
        """What each source is called in splits and metrics."""
        return source_names(self.sources)

    def set_splits(self, kind: str, found: Sequence[Split | None]) -> None:
        """Keep what was read of each source.

        Args:
            kind: train or validation.
            found: one for each source, in their order; None where it has no such split.
        """
        if len(self.sources) == 1:
            if found[0] is not None:
                self.splits[kind] = found[0]
            return
        named = zip(self.labels, found, strict=True)
        for label, split in named:
            if split is not None:
                self.splits[f"{kind} {label}"] = split

    def held_out_splits(self) -> dict[str | None, Split]:
        """What is validated on, by its source; by None where there is but one."""
        found = ((name.partition(" "), split) for name, split in self.splits.items())
        return {label or None: split for (kind, _, label), split in found if kind == "validation"}

    def train_blocks(self) -> Blocks | MixedBlocks:
        """The rows to train on."""
        if "train" in self.splits:
            return self.splits["train"].blocks
        parts = [self.splits[f"train {label}"].blocks for label in self.labels]
        return MixedBlocks(parts, list(self.weights.values()))

    def stop_packing(self) -> None:
        """Give each document or example a row of its own from now on, for a model that cannot keep them apart."""
        self.packing = False
        self.setup(
            str(self.trainer.state.fn) if self.trainer is not None and self.trainer.state.fn else "fit"
        )

    def train_dataloader(self) -> ResumableLoader:
        """This rank's share of the rows, shuffled anew each epoch by the seed of `seed_everything`.

        Raises:
            InputError: no token is supervised.
        """
        blocks = self.train_blocks()
        if not blocks.supervised_tokens:
            raise InputError(
                f"Nothing would be learned from {self.source}: none of its tokens is supervised, as "
                f"max_length is {getattr(self, 'max_length', None)}. Give a longer --data.max_length."
            )
        seed: int | None = run_seed() or 0
        trainer = self.trainer
        if trainer is None:
            return self._loader(blocks, seed)
        if trainer.overfit_batches:  # type: ignore[attr-defined]
            seed = None
        return self._loader(
            blocks,
            seed,
            windows=lambda: (trainer.accumulate_grad_batches, trainer.num_training_batches),
            moved=lambda count: move_batches(trainer, count),
        )

    def val_dataloader(self) -> list[Any]:
        """This rank's share of the held-out rows, in their own order; none where nothing is held out."""
        held_out = self.held_out_splits().items()
        return [self._loader(split.blocks, None, source=label) for label, split in held_out]

    def _loader(self, blocks: Blocks | MixedBlocks, seed: int | None, **options: Any) -> ResumableLoader:
        rank, ranks = self._share()
        items, order = len(blocks), None
        if isinstance(blocks, MixedBlocks):
            items, order = blocks.epoch_rows, blocks.order
        sampler = EpochBatches(items, self.batch_size, seed=seed, rank=rank, ranks=ranks, order=order)
        return ResumableLoader(blocks, sampler, num_workers=self.num_workers, **options)

    def _share(self) -> tuple[int, int]:
        """Which share of the data is this process's, and of how many."""
        if self.trainer is None:  # under Fabric, or in a loop of one's own
            several = distributed.is_available() and distributed.is_initialized()
            return (distributed.get_rank(), distributed.get_world_size()) if several else (0, 1)
        # The strategy knows: where a model is spread over several processes, these share their batches.
        sharing = self.trainer.distributed_sampler_kwargs
        return (sharing["rank"], sharing["num_replicas"]) if sharing else (0, 1)
