"""Optimizers that keep two sets of weights, one to step from and one to use, as the schedule-free ones do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

STEPPED = "stepped_state"  # in a checkpoint: the weights that the next step starts from


def set_modes(optimizers: Sequence[torch.optim.Optimizer], training: bool) -> None:
    """Put into the model the weights to step from, or those to use, where an optimizer tells them apart."""
    for optimizer in optimizers:
        change = getattr(optimizer, "train" if training else "eval", None)
        if change is not None:
            change()


class OptimizerModes(Callback):
    """Validate, save and export with the weights that an optimizer's `eval()` gives, and step from those of `train()`.

    schedulefree.AdamWScheduleFree is such a one (Defazio et al. 2024); any other is left alone. A checkpoint's
    `state_dict` holds the weights to use; those to step from lie beside it, for a resumed run to go on from them to the
    last bit, since the way from one to the other and back rounds.
    """

    def __init__(self) -> None:
        self._stepped: dict[str, Tensor] | None = None  # while the model holds the weights to use
        self._training = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Step from the right weights, in a resumed run too."""
        self._training = any(hasattr(optimizer, "train") for optimizer in trainer.optimizers)
        set_modes(trainer.optimizers, training=True)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Validate what will be used."""
        if self._training:
            self._use(trainer, pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Go on training."""
        if self._training:
            self._step_on(trainer, pl_module)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Put both sets of weights into a checkpoint."""
        if self._training:
            stepped = self._use(trainer, pl_module)
            checkpoint["state_dict"], checkpoint[STEPPED] = _copied(pl_module), stepped
            self._step_on(trainer, pl_module)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Go on from the weights to step from; the model has loaded those to use."""
        if trainer.state.fn == TrainerFn.FITTING and STEPPED in checkpoint:
            pl_module.load_state_dict(checkpoint[STEPPED], strict=False)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave what will be used."""
        set_modes(trainer.optimizers, training=False)
        self._training = False

    def _use(self, trainer: pl.Trainer, module: pl.LightningModule) -> dict[str, Tensor]:
        self._stepped = _copied(module)
        set_modes(trainer.optimizers, training=False)
        return self._stepped

    def _step_on(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        set_modes(trainer.optimizers, training=True)
        module.load_state_dict(self._stepped or {}, strict=False)
        self._stepped = None


def _copied(module: pl.LightningModule) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}
