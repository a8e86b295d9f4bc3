"""The folder of a run: used by one `fit` at a time, and not for another run without a word."""

from __future__ import annotations

import json
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from filelock import FileLock, Timeout
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.callbacks import Callback

from taigi_lightning.errors import InputError
from taigi_lightning.internals import run_seed
from taigi_lightning.planning.run_files import LINEAGE
from taigi_lightning.terminal import print_line
from taigi_lightning.training.checkpoints import checkpoint_folder
from taigi_lightning.training.resume import collect_settings, optimizer_settings
from taigi_lightning.training.run_identity import Run, begin, read_run, write_run
from taigi_lightning.training.wandb_artifacts import wandb_loggers

LOCK = ".lock"


class RunFolder(Callback):
    """Keep one run to a folder: its identity is in run.json and in every checkpoint.

    Args:
        overwrite: begin a new run where another one is; its checkpoints are removed when the new one's first step
            begins, its adapter and merged model are replaced when the new one ends.
    """

    def __init__(self, overwrite: bool = False) -> None:
        self.overwrite = overwrite
        self.run: Run | None = None
        self._earlier: Run | None = None
        self._lock: FileLock | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Take the folder, before anything is loaded.

        Raises:
            InputError: another `fit` is writing there, or another run is there and `overwrite` is not set.
        """
        self.check_start(trainer, stage, str(trainer.ckpt_path or ""))

    def check_start(self, trainer: pl.Trainer, stage: str, checkpoint: str) -> None:
        """`setup`, also before the trainer runs: the command line refuses before the data are read.

        Raises:
            InputError: as for `setup`.
        """
        if stage == "fit" and trainer.is_global_zero and not getattr(trainer, "fast_dev_run", False):
            self.claim(Path(trainer.default_root_dir), checkpoint)

    def claim(self, root: Path, checkpoint: str = "") -> None:
        """Lock a folder for a run that begins, or goes on from `checkpoint`; a second call does nothing.

        Raises:
            InputError: as for `setup`.
        """
        if self._lock is not None:
            return
        root.mkdir(parents=True, exist_ok=True)
        lock = FileLock(root / LOCK, timeout=0)
        try:
            lock.acquire()
        except Timeout as error:
            raise InputError(
                f"Another `fit` is writing into {root}. Wait for it, or give --trainer.default_root_dir another "
                "folder."
            ) from error
        except (OSError, NotImplementedError) as error:  # some network drives lock nothing
            print_line(f"{root} cannot be locked ({error}): take care that no other `fit` writes into it.")
        goes_on = bool(checkpoint) and root.resolve() in Path(checkpoint).resolve().parents
        goes_on = goes_on or _requeued(root)
        try:
            if goes_on and self.overwrite:
                raise InputError(
                    "--ckpt_path goes on with the run in this folder, and --run.overwrite begins another one there. "
                    "Leave out one of them."
                )
            found = describe_results(root)
            if found and not goes_on and not self.overwrite:
                raise InputError(
                    f"{root} holds {found}. Give --ckpt_path last to go on with that run, --run.overwrite true to "
                    "begin anew there, or --trainer.default_root_dir another folder."
                )
        except InputError:
            lock.release()
            raise
        self._lock = lock

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Note which run the checkpoint is of."""
        self._earlier = Run.from_plain(checkpoint["run"]) if "run" in checkpoint else None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Record the run, and remove the checkpoints of the one that it replaces."""
        if self._lock is None:
            return
        settings = collect_settings(trainer, pl_module)
        for optimizer in trainer.optimizers:
            settings |= optimizer_settings(optimizer)
        blocks = getattr(trainer.train_dataloader, "blocks", None)
        self.run = begin(
            self._earlier,
            step=trainer.global_step,
            seed=run_seed(),
            settings=sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest(),
            data=getattr(blocks, "digest", ""),
        )
        root = Path(trainer.default_root_dir)
        ids = [str(logger.version) for logger in wandb_loggers(trainer.loggers)]
        self.run = replace(self.run, wandb=ids[0] if ids else "")
        write_run(root, self.run)
        if self.overwrite:
            for checkpoint in checkpoint_folder(root).rglob("*.ckpt"):
                checkpoint.unlink()

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Put the run's identity into a checkpoint."""
        if self.run is not None:
            checkpoint["run"] = self.run.as_plain()

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Record that the run has ended, after its model was exported."""
        if self.run is not None:
            self.run = replace(self.run, finished=True)
            write_run(Path(trainer.default_root_dir), self.run)

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Let another `fit` have the folder: Lightning calls no teardown then."""
        self.teardown(trainer, pl_module, "fit")

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Let another `fit` have the folder."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None


def _requeued(root: Path) -> bool:
    """Whether SLURM runs the job again that Lightning saved here, and will resume by itself."""
    return SLURMEnvironment.detect() and any(root.glob("hpc_ckpt_*.ckpt"))


def describe_results(root: Path) -> str:
    """What of a run is in a folder, in words; empty if nothing would be lost by beginning another one there."""
    run = read_run(root)
    if run is not None and run.finished:
        return f"a finished run, which {run.in_words()}"
    count = sum(1 for _ in checkpoint_folder(root).rglob("*.ckpt"))
    if count:
        return (
            f"{count} checkpoint{'s' * (count > 1)} of a run that {run.in_words() if run else 'was stopped'}"
        )
    if (root / "adapter").is_dir() or (root / LINEAGE).is_file():
        return "the model of an earlier run"
    return ""
