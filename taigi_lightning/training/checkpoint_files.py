"""Checkpoints on disk: written aside and renamed, and every one that the options promise."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from taigi_lightning.atomic_write import written_aside
from taigi_lightning.errors import InputError
from taigi_lightning.planning.monitors import NEWEST
from taigi_lightning.training.checkpoints import of_run, saved_checkpoints
from taigi_lightning.training.run_identity import Run

BEST = "best"  # the folder of checkpoints that were kept as such, among the others


class AsideCheckpointIO(TorchCheckpointIO):
    """Lightning's, but a save that fails (a full disk, a kill) leaves nothing under the checkpoint's name.

    Lightning writes into the system's temporary folder and moves the file; to another disk, that is a copy, which may
    stop halfway. Writing beside the place also keeps the whole file out of memory. Give it to a Trainer of your own
    as `plugins=AsideCheckpointIO()`.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        """Write a checkpoint; a remote address is left to Lightning."""
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        with written_aside(Path(path)) as aside, aside.open("wb") as file:
            torch.save(checkpoint, file)


class RunCheckpoint(ModelCheckpoint):
    """Lightning's ModelCheckpoint, of which every save exists that its options promise.

    Lightning puts off a save in an epoch's last step until the validation after it, which
    `check_val_every_n_epoch: null` may not run; and it scores a save between two validations by the earlier one.
    Here a save waits for a validation only if that measures what `monitor` names, and then is scored by it.

    Relies on two methods of ModelCheckpoint that are not public: `_should_save_on_train_epoch_end`, whether saves are
    made when an epoch ends rather than after validation, and `_monitor_candidates`, what `monitor` may name now.
    """

    _measured_by_validation = False
    _in_training_batch = False
    _known: frozenset[str] = frozenset()
    _resumed_from: tuple[Run | None, int] | None = (
        None  # the run and the step of the checkpoint it goes on from
    )

    @property
    def state_key(self) -> str:
        """That of ModelCheckpoint, so that what it recorded in earlier checkpoints is found."""
        return super().state_key.replace(type(self).__name__, ModelCheckpoint.__name__, 1)

    def format_checkpoint_name(self, metrics: dict[str, Tensor], *rest: Any, **named: Any) -> str:
        """The name of a checkpoint, in which `{val/loss:.3f}` reads `val_loss=1.234`: a / would begin a folder."""
        found = super().format_checkpoint_name(metrics, *rest, **named)
        folder, name = str(self.dirpath or ""), found
        if folder and found.startswith(folder):
            name = found[len(folder) :]
        else:
            folder = ""
        for metric in (metric for metric in metrics if "/" in metric):
            name = name.replace(f"{metric}=", f"{metric.replace('/', '_')}=")
        return folder + name

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Begin anew: a trainer may fit several times."""
        self._resumed_from = None
        super().setup(trainer, pl_module, stage)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Note from where the run goes on."""
        run = checkpoint.get("run")
        self._resumed_from = (Run.from_plain(run) if run else None, int(checkpoint["global_step"]))

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find the best checkpoints of a resumed run again, which the one that it goes on from may not know all of.

        A validation right after that was saved has kept another one; and a run that goes back has passed some by
        whose files are gone since.
        """
        if self._resumed_from is None or self.monitor in NEWEST or trainer.state.fn != TrainerFn.FITTING:
            return
        run, step = self._resumed_from
        found: dict[str, float] = {}
        if trainer.is_global_zero:
            kept = of_run(saved_checkpoints(self._searched()), run, step)
            found = {
                str(saved.path): score.value
                for saved in kept
                for score in saved.scores
                if (score.monitor, score.mode) == (self.monitor, self.mode)
            }
        found = trainer.strategy.broadcast(found)
        if self.best_model_path and self.best_model_path not in found:
            pl_module.print(
                f"The best checkpoint until step {step}, {self.best_model_path}, is not in {self.dirpath} any more: "
                "the best of those that are there, and of those to come, is kept."
            )
        self._adopt(found)

    def _searched(self) -> Path:
        """Where the best may lie: earlier versions kept them beside the newest, in the folder above."""
        folder = Path(str(self.dirpath))
        return folder.parent if folder.name == BEST else folder

    def _adopt(self, found: Mapping[str, float]) -> None:
        """Go on from these checkpoints and scores, of which as many count as are to be kept."""
        worse_last = sorted(found, key=lambda path: found[path], reverse=self.mode == "max")
        counted = worse_last if self.save_top_k == -1 else worse_last[: self.save_top_k]
        self.best_k_models = {path: torch.tensor(found[path]) for path in counted}
        self.best_model_path = counted[0] if counted else ""
        self.best_model_score = self.best_k_models[counted[0]] if counted else None
        self.kth_best_model_path = counted[-1] if counted else ""
        worst = torch.tensor(float("inf" if self.mode == "min" else "-inf"))
        self.kth_value = self.best_k_models[counted[-1]] if counted else worst

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuse a monitor that only a validation measures, where nothing is validated.

        Raises:
            InputError: no checkpoint would ever be written.
        """
        super().on_train_start(trainer, pl_module)
        validated = trainer.enable_validation and sum(trainer.num_val_batches) > 0
        if self.save_top_k and str(self.monitor).startswith("val/") and not validated:
            raise InputError(
                f"checkpoint.monitor is {self.monitor}, and nothing is held out to validate on, so that no "
                "checkpoint would be written. Hold something out, or give --checkpoint.monitor step."
            )

    def on_train_batch_end(self, *arguments: Any, **named: Any) -> None:
        """Save if it is time, without the score of an earlier validation."""
        self._in_training_batch = True
        try:
            super().on_train_batch_end(*arguments, **named)
        finally:
            self._in_training_batch = False

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note what is measured already."""
        self._known = frozenset(trainer.callback_metrics)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Make the saves that waited for this validation."""
        if not trainer.sanity_checking and self.monitor in trainer.callback_metrics.keys() - self._known:
            self._measured_by_validation = True
        super().on_validation_end(trainer, pl_module)

    def _should_save_on_train_epoch_end(self, trainer: pl.Trainer) -> bool:
        if self._save_on_train_epoch_end is not None:
            return self._save_on_train_epoch_end
        return not self._measured_by_validation

    def _monitor_candidates(self, trainer: pl.Trainer) -> dict[str, Tensor]:
        found = super()._monitor_candidates(trainer)
        if self._in_training_batch and self._measured_by_validation and self.monitor is not None:
            found.pop(self.monitor, None)
        return found
