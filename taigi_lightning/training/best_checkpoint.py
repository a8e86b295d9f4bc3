"""The best checkpoint by a monitor, kept beside the newest ones: found again on resume, and taken for the export."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from taigi_lightning.errors import InputError
from taigi_lightning.planning.monitors import KEPT, NEWEST, chosen_mode
from taigi_lightning.training.checkpoint_files import BEST, RunCheckpoint
from taigi_lightning.training.checkpoints import check_trained, check_whole


class Best(NamedTuple):
    """A checkpoint that was the best: after how many optimizer steps, by which monitor, with what score."""

    path: str
    step: int
    monitor: str
    score: float


def checkpoint_callbacks(settings: Mapping[str, Any]) -> list[RunCheckpoint]:
    """What keeps checkpoints as the section `checkpoint` says.

    Without a monitor of its own that is the newest ones. With one, the best ones are kept by it in a folder of their
    own, scored by every validation, and the newest ones beside them, so that a run never goes on from far back.

    Args:
        settings: the section's values: `ModelCheckpoint`'s arguments.

    Raises:
        InputError: the monitor does not say which way is better, and nor does `mode`; or weights alone would be kept.
    """
    monitor = settings["monitor"]
    mode = chosen_mode(monitor, settings["mode"])
    if monitor not in NEWEST and settings["save_weights_only"]:
        raise InputError(
            "checkpoint.save_weights_only leaves out which run a checkpoint is of and what it scored, without which a "
            f"resumed run would not find its best by {monitor} again. Leave it out."
        )
    if monitor in NEWEST:
        return [RunCheckpoint(**{**settings, "mode": mode})]
    often = {name: settings[name] for name in ("every_n_train_steps", "train_time_interval")}
    newest = RunCheckpoint(
        settings["dirpath"],
        "{step}",
        monitor="step",
        mode="max",
        save_top_k=KEPT,
        enable_version_counter=False,
        **often,
    )
    validated = str(monitor).startswith("val/")
    best = {**settings, "mode": mode, "dirpath": str(Path(settings["dirpath"]) / BEST)}
    if validated:  # every validation counts, whatever step it falls on
        often = {"every_n_train_steps": None, "train_time_interval": None, "save_on_train_epoch_end": False}
        best |= often
    return [newest, RunCheckpoint(**best)]


def monitored(trainer: pl.Trainer) -> ModelCheckpoint | None:
    """The callback that keeps the best checkpoint, the first if there are several; None where none does."""
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.monitor not in NEWEST and callback.save_top_k:
            return callback
    return None


def check_best(trainer: pl.Trainer) -> None:
    """Refuse to export the best checkpoint where none is kept.

    Raises:
        InputError: so it is.
    """
    if monitored(trainer) is None:
        raise InputError(
            "export.which is best, and no checkpoint is kept by a figure that could be best. Give "
            "--checkpoint.monitor val/loss, or --export.which last."
        )


def find_best(trainer: pl.Trainer) -> Best | None:
    """The run's best checkpoint so far, or None where nothing was measured yet.

    Raises:
        InputError: it is gone, or damaged.
    """
    callback = monitored(trainer)
    if callback is None or not callback.best_model_path or callback.best_model_score is None:
        return None
    path = callback.best_model_path
    check_whole(path)
    step = torch.load(path, map_location="cpu", mmap=True, weights_only=True)["global_step"]
    return Best(path, int(step), str(callback.monitor), float(callback.best_model_score))


class TakeBest(Callback):
    """When `fit` ends, put the weights of the best checkpoint into the module, if `export.which` asks for it.

    The command line has it before all that looks at the trained model then: samples, answers, the export.
    """

    def __init__(self) -> None:
        self._looked = False
        self._best: Best | None = None

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin anew: a trainer may fit several times."""
        self._looked, self._best = False, None

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Load them, if the run exports the best checkpoint."""
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        if any(getattr(callback, "which", "") == "best" for callback in callbacks):
            self.take(trainer, pl_module)

    def take(self, trainer: pl.Trainer, module: pl.LightningModule) -> Best | None:
        """Put the weights of the best checkpoint into a module, on every rank; a second call does nothing.

        Returns:
            which it is; None where there is none, and the last step's weights stay, with a word.

        Raises:
            InputError: the checkpoint is gone, damaged, or of other trained parameters.
        """
        if self._looked or getattr(trainer, "fast_dev_run", False):
            return self._best
        self._best = find_best(trainer)
        self._looked = True
        if self._best is None:
            module.print(
                "Nothing was measured that could be best: the weights of the last step are exported."
            )
            return None
        state = torch.load(self._best.path, map_location="cpu", mmap=True, weights_only=True)["state_dict"]
        check_trained(state, dict(module.named_parameters()))
        module.load_state_dict(state)
        module.print(f"Best: {self._best.path}, {self._best.monitor} {self._best.score:.4f}")
        return self._best


def take_best(trainer: pl.Trainer, module: pl.LightningModule) -> Best | None:
    """`TakeBest.take` of the trainer's own, or of one made for it."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    there = next((callback for callback in callbacks if isinstance(callback, TakeBest)), TakeBest())
    return there.take(trainer, module)
