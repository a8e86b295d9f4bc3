"""What is logged of every optimizer step: loss, gradient norm, learning rate."""

from __future__ import annotations

import math
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping

from taigi_lightning.errors import InputError
from taigi_lightning.training.distributed import sum_over_ranks
from taigi_lightning.training.lr_schedule import check_monitor


def check_early_stopping(trainer: pl.Trainer) -> None:
    """Refuse an early stop that validations of the same weights alone would bring about, between two optimizer steps.

    Raises:
        InputError: it would.
    """
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    patience = [
        callback.patience
        for callback in callbacks
        if isinstance(callback, EarlyStopping) and str(callback.monitor).startswith("val/")
    ]
    accumulated = min(trainer.accumulate_grad_batches, trainer.num_training_batches)
    batches = trainer.val_check_batch
    if not patience or not trainer.enable_validation or batches is None or batches == float("inf"):
        return
    every = int(batches)
    if (math.ceil(accumulated / every) - 1) >= max(1, min(patience)):  # 0 waits for one too
        raise InputError(
            f"EarlyStopping counts validations, which come every {every} micro-batches, and an optimizer step comes "
            f"every {accumulated}: those of the same weights would end the run. Set --trainer.val_check_interval to "
            f"{accumulated} or more micro-batches, or lower --trainer.accumulate_grad_batches."
        )


class StepMetrics(Callback):
    """Log loss, gradient norm and learning rate of every optimizer step, before clipping.

    A callback, so that a module that overrides `on_before_optimizer_step` is logged all the same. The loss is the mean
    over all supervised tokens of the step's window and of all ranks; a module whose own `training_step` adds nothing
    to `window_loss` logs its own.
    """

    def __init__(self) -> None:
        self._said = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forget a window that an error broke off.

        Raises:
            InputError: a schedule waits for a validation, and none is made; or an early stop would count validations of
                the same weights.
        """
        module: Any = pl_module
        module.window_loss, module.validated = None, False
        validates = trainer.enable_validation and sum(trainer.num_val_batches) > 0
        check_early_stopping(trainer)
        for config in trainer.lr_scheduler_configs:
            check_monitor(config.scheduler, validates)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Tell a schedule that waits for it; the two batches of a rehearsal are none."""
        module: Any = pl_module
        module.validated = not trainer.sanity_checking

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Say once where micro-batches weigh the same, however many tokens of theirs are supervised."""
        several = trainer.accumulate_grad_batches > 1 or trainer.world_size > 1
        counted = not isinstance(batch, dict) or "window_tokens" in batch
        if several and not counted and not self._said:
            pl_module.print(
                "The batches hold no window_tokens, so every micro-batch weighs the same, however many supervised "
                "tokens it has, as is Lightning's rule. CPTDataModule and SFTDataModule weigh tokens."
            )
            self._said = True

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Log the window that ends with this step."""
        module: Any = pl_module
        gradients = [p.grad for g in optimizer.param_groups for p in g["params"] if p.grad is not None]
        if module.window_loss is not None:
            loss = sum_over_ranks([module.window_loss], module.device)[0] / trainer.world_size
            module.log("train/loss", loss.float(), prog_bar=True, batch_size=1)
            module.window_loss = None
        module.log("train/grad_norm", torch.nn.utils.get_total_norm(gradients), batch_size=1)
        # On the CPU: as a number it would be copied to the device, which waits for it.
        rate = torch.tensor(float(optimizer.param_groups[0]["lr"]))
        module.log("train/learning_rate", rate, batch_size=1)
