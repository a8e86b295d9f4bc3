"""Measures training: tokens per second, FLOP utilisation, memory, the wait for data."""

from __future__ import annotations

import time
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback

from taigi_lightning.evaluation.model_setup import COMPUTE_DTYPES
from taigi_lightning.training.peak_flops import peak_flops
from taigi_lightning.training.run_summary import weights


def flops_per_token(model: torch.nn.Module, training: bool) -> int:
    """What one pass of a token through a model's weights needs, without attention's own products.

    Args:
        model: whose Linears count; an input embedding is only looked up.
        training: forward and backward: 4 FLOPs for each frozen weight (forward, and the gradient of its input) and 6
            for each trained one; else 2, forward alone.
    """
    needed = 0
    for name, parameter in model.named_parameters():
        if "embed_tokens" not in name:
            needed += weights(parameter) * ((6 if parameter.requires_grad else 4) if training else 2)
    return needed


def batch_tokens(batch: Any) -> int:
    """Tokens that a batch puts through the model, padding included; 0 of a batch of questions or of a loader's own."""
    ids = batch.get("input_ids") if isinstance(batch, dict) else None
    return int(ids.numel()) if ids is not None else 0


class Throughput(Callback):
    """Log tokens per second, FLOP utilisation, memory and the wait for data, every optimizer step.

    Tokens are those the model computed, padding included, over the wall-clock time between two optimizer
    steps; validation and the writing of checkpoints in between are left out. Utilisation counts what one pass needs and
    nothing computed twice: see `flops_per_token`.
    """

    def __init__(self) -> None:
        self._step = 0
        self._tokens = 0
        self._waited = 0.0
        self._since: float | None = None
        self._saving: float | None = None  # when the writing of a checkpoint began
        self._waited_then = 0.0
        self._flops_per_token = 0
        self._available_flops: float | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Count the model's FLOPs a token once, and ask what the card could do."""
        module: Any = pl_module
        self._step = trainer.global_step
        self._flops_per_token = flops_per_token(module.model, training=True)
        if module.device.type == "cuda":
            dtype = COMPUTE_DTYPES[str(trainer.precision)]
            self._available_flops = peak_flops(module.device, dtype)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Count the batch, and begin the window if it is the first of one."""
        self._leave_out_saving(trainer)
        if self._since is None:
            self._since = time.perf_counter()
            self._waited = self._total_wait(trainer)
        self._tokens += batch_tokens(batch)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log at the end of a window."""
        if trainer.global_step == self._step or self._since is None:
            return
        self._step = trainer.global_step
        self._leave_out_saving(trainer)
        now, waited = time.perf_counter(), self._total_wait(trainer)
        seconds = now - self._since
        rate = self._tokens / seconds
        pl_module.log("train/tokens_per_second", rate * trainer.world_size, prog_bar=True, batch_size=1)
        pl_module.log("train/data_wait", (waited - self._waited) / seconds, batch_size=1)
        if pl_module.device.type == "cuda":
            reserved = torch.cuda.max_memory_reserved(pl_module.device) / 2**30
            pl_module.log("train/memory_gib", reserved, prog_bar=True, batch_size=1)
        if self._available_flops:
            mfu = rate * self._flops_per_token / self._available_flops
            pl_module.log("train/mfu", mfu, batch_size=1)
        self._tokens, self._waited, self._since = 0, waited, now

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Note when the writing of a checkpoint began, after what the card still had to do."""
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize(pl_module.device)
        self._saving, self._waited_then = time.perf_counter(), self._total_wait(trainer)

    def _leave_out_saving(self, trainer: pl.Trainer) -> None:
        """Move the window's beginning by the time a checkpoint took, but for any wait for data in it."""
        if self._saving is not None and self._since is not None:
            waited = self._total_wait(trainer) - self._waited_then
            self._since += time.perf_counter() - self._saving - waited
        self._saving = None

    @staticmethod
    def _total_wait(trainer: pl.Trainer) -> float:
        return float(getattr(trainer.train_dataloader, "waited", 0.0))

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Do not count a validation as time of training."""
        self._tokens, self._since = 0, None
