"""Every checkpoint that the options promise is written, whole, and scored by its own validation."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import DataLoader

from taigi_lightning.errors import InputError
from taigi_lightning.training.checkpoint_files import AsideCheckpointIO, RunCheckpoint
from tests.taigi_lightning.training.one_weight import OneWeight
from tests.working_folder import environment


def saved(folder: Path, *, epoch: int = 3, validate: bool = True, **options: Any) -> set[str]:
    """Train 9 steps in epochs of 3; the names of the checkpoints."""
    trainer: dict[str, Any] = {"max_steps": 9, "check_val_every_n_epoch": None, "val_check_interval": 1000}
    trainer |= {name: options.pop(name) for name in list(options) if name in trainer}
    checkpoint = RunCheckpoint(folder, **({"filename": "{step}", "save_top_k": -1} | options))
    data = DataLoader(torch.ones(epoch, 1))  # type: ignore[arg-type]
    pl.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, max_epochs=-1,
        callbacks=[checkpoint], plugins=[AsideCheckpointIO()], num_sanity_val_steps=0, **trainer,
    ).fit(OneWeight(float), data, data if validate else None)  # fmt: skip
    return {path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.ckpt")}


def test_a_metric_in_a_name_makes_no_folder(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "monitor": "val/loss",
        "filename": "{step}-{val/loss:.1f}",
        "every_n_train_steps": 3,
    }
    names = {f"step={step}-val_loss={step}.0" for step in (3, 6, 9)}
    assert saved(tmp_path, val_check_interval=3, **options) == names


STEPS = {"step=3", "step=6", "step=9"}


@pytest.mark.parametrize("validate", [True, False])
@pytest.mark.parametrize(
    "options",
    [
        {"monitor": "step", "mode": "max", "every_n_train_steps": 3},
        {"every_n_train_steps": 3},
        {"every_n_epochs": 1},
        {"monitor": "step", "mode": "max", "every_n_epochs": 1},
        {"monitor": "step", "mode": "max", "every_n_train_steps": 3, "val_check_interval": 3},
        {"monitor": "step", "mode": "max", "every_n_train_steps": 3, "val_check_interval": 2},
        {"monitor": "step", "mode": "max", "every_n_train_steps": 3, "check_val_every_n_epoch": 2,
         "val_check_interval": 1.0},
    ],
)  # fmt: skip
def test_a_save_in_an_epochs_last_step_exists(
    tmp_path: Path, options: dict[str, Any], validate: bool
) -> None:
    assert saved(tmp_path, validate=validate, **options) == STEPS


@pytest.mark.parametrize("epoch", [3, 9])
def test_each_save_is_scored_by_the_validation_after_it(tmp_path: Path, epoch: int) -> None:
    """Validated at 2, 4, 6 and 8, due at 3, 6 and 9: the score, which is the step, is never an earlier one.

    In an epoch's last step Lightning waits too; in the middle of one it would take the earlier score.
    """
    found = saved(
        tmp_path,
        epoch=epoch,
        monitor="val/loss",
        filename="{step}={val/loss:.0f}",
        auto_insert_metric_name=False,
        every_n_train_steps=3,
        val_check_interval=2,
    )
    assert found == {"4=4", "6=6"}


def test_a_monitor_that_nothing_measures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing is held out"):
        saved(tmp_path, validate=False, monitor="val/loss", every_n_train_steps=3)


@pytest.mark.posix("a limit to the size of files")
def test_a_full_disk_leaves_nothing_under_the_checkpoints_name(tmp_path: Path) -> None:
    """A file's size is limited here, which fails in the middle of writing as a full disk does."""
    code = f"""
import resource, torch
from pathlib import Path
from taigi_lightning.training.checkpoint_files import AsideCheckpointIO
files, folder = AsideCheckpointIO(), Path({str(tmp_path)!r})
files.save_checkpoint({{"weights": torch.zeros(100)}}, folder / "step=3.ckpt")
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
files.save_checkpoint({{"weights": torch.zeros(1_000_000)}}, folder / "step=6.ckpt")
"""
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=False
    )
    assert run.returncode == 1
    assert "OSError: [Errno 27] File too large" in run.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["step=3.ckpt"]
