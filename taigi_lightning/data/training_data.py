"""What the data modules of both stages share: splits, and loaders over their rows."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl

from taigi_lightning.data.dataloader import EpochBatches, ResumableLoader
from taigi_lightning.data.packing import Blocks
from taigi_lightning.errors import InputError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Split:
    """One split, ready for a loader, and what it holds.

    `documents` counts documents or examples, as `unit` says, and `cut` those too long for a row: documents
    divided into pieces, or examples whose passage was shortened. `characters` is the length of the texts or
    passages before encoding.
    """

    blocks: Blocks
    unit: str
    documents: int
    cut: int
    characters: int

    def __str__(self) -> str:
        packing = self.blocks.packing
        cut = f" ({self.cut:,} cut to fit)" if self.cut else ""
        padding = f", {packing.padding_share:.1%} padding" if packing.width else ""
        return (
            f"{self.documents:,} {self.unit}{cut} in {len(packing):,} rows: "
            f"{packing.lengths.sum():,} tokens, {self.blocks.supervised_tokens:,} of them supervised{padding}"
        )


class TrainingData(pl.LightningDataModule):
    """Loaders over a training split and, perhaps, a validation split."""

    def __init__(self, source: str, batch_size: int, num_workers: int) -> None:
        super().__init__()
        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size}. Set it to 1 or more.")
        self.source = source  # recorded with the trained model
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.splits: dict[str, Split] = {}
        self.packing = False

    def summary(self) -> str:
        """What is trained and validated on, one line a split; empty before `setup`."""
        return "\n".join(f"{name}: {split}" for name, split in self.splits.items())

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
        if not self.splits["train"].blocks.supervised_tokens:
            raise InputError(
                f"Nothing would be learned from {self.source}: none of its tokens is supervised, as "
                f"max_length is {getattr(self, 'max_length', None)}. Give a longer --data.max_length."
            )
        seed: int | None = int(os.environ.get("PL_GLOBAL_SEED", "0"))
        trainer = self.trainer
        if trainer is None:
            return self._loader("train", seed)
        if trainer.overfit_batches:  # type: ignore[attr-defined]
            seed = None
        return self._loader(
            "train",
            seed,
            windows=lambda: (trainer.accumulate_grad_batches, trainer.num_training_batches),
            progress=trainer.fit_loop.epoch_loop.batch_progress,
        )

    def val_dataloader(self) -> list[Any]:
        """This rank's share of the held-out rows, in their own order; none where nothing is held out."""
        return [self._loader("validation", None)] if "validation" in self.splits else []

    def _loader(self, name: str, seed: int | None, **options: Any) -> ResumableLoader:
        blocks = self.splits[name].blocks
        rank, ranks = self._share()
        sampler = EpochBatches(len(blocks), self.batch_size, seed=seed, rank=rank, ranks=ranks)
        return ResumableLoader(blocks, sampler, num_workers=self.num_workers, **options)

    def _share(self) -> tuple[int, int]:
        """Which share of the data is this process's, and of how many."""
        # The strategy knows: where a model is spread over several processes, these share their batches.
        sharing = self.trainer.distributed_sampler_kwargs if self.trainer else None
        return (sharing["rank"], sharing["num_replicas"]) if sharing else (0, 1)
