"""A resumed run in int8_mixed goes on along the directions that it found: a part of its checkpoints."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from taigi_lightning.fast_path.apply import fast_decoder
from taigi_lightning.fast_path.strong_directions import StrongDirections

KEY = "strong_directions"


class KeptDirections(Callback):
    """Write the strongest directions of every input into checkpoints, and take them up again.

    They are found in a run's first micro-batch of enough tokens, which a resumed run does not see. With several GPUs
    each finds its own; a checkpoint has those of the first.
    """

    def __init__(self) -> None:
        self._kept: list[Tensor | None] = []

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add P (R, K) of each group of projections, where there is one."""
        found = [None if one is None else one.directions for one in strong_parts(pl_module)]
        if any(directions is not None for directions in found):
            checkpoint[KEY] = [None if d is None else d.detach().cpu() for d in found]

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Hold them until the model is where it trains."""
        self._kept = checkpoint.get(KEY, [])

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Hand them over, if this run's products split their inputs too."""
        parts = strong_parts(pl_module)
        if len(self._kept) == len(parts):
            for part, directions in zip(parts, self._kept, strict=True):
                if part is not None:
                    part.use(directions)
        self._kept = []


def strong_parts(module: Any) -> list[StrongDirections | None]:
    """Of each group of projections, layer by layer; None where nothing is split. Empty off the fast path."""
    decoder = fast_decoder(module.model)
    return [] if decoder is None else [g.strong for layer in decoder.layers for g in layer.groups()]
