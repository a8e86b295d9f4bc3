"""Finding the checkpoint to resume from, and whether it is this run's."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from taigi_lightning.errors import InputError


def checkpoint_folder(root: str | Path | None) -> Path:
    """Where a run whose `trainer.default_root_dir` is `root` keeps its checkpoints."""
    return Path(root or ".") / "checkpoints"


def newest_checkpoint(folder: Path) -> Path:
    """The complete checkpoint with the most steps in `folder`; a torn file is passed over, aloud.

    A `.ckpt` is a zip archive whose directory is written last, so a cut-off file has none.

    Raises:
        InputError: the folder holds no complete checkpoint.
    """
    candidates = sorted(folder.glob("*step=*.ckpt"), key=_step, reverse=True)
    for path in candidates:
        if zipfile.is_zipfile(path):
            return path
        print(f"Passing over {path}: it is incomplete.")
    raise InputError(
        f"--ckpt_path last found no complete checkpoint in {folder} ({len(candidates)} incomplete). "
        "Leave --ckpt_path out to start from the beginning."
    )


def find_checkpoint(name: str, folder: Path) -> str:
    """Turn `--ckpt_path` into what Lightning reads: `last` is the newest complete checkpoint of `folder`.

    Raises:
        InputError: there is no such file.
    """
    if name == "last":
        return str(newest_checkpoint(folder))
    if name not in ("best", "hpc") and not zipfile.is_zipfile(name):
        found = (
            f"{name} is no complete checkpoint" if Path(name).exists() else f"There is no checkpoint {name}"
        )
        there = ", ".join(str(path) for path in sorted(folder.glob("*.ckpt"), key=_step)) or "none"
        raise InputError(f"{found}. In {folder} there are: {there}. `last` takes the newest.")
    return name


def check_trained(found: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Refuse a checkpoint whose trained parameters are not the model's, which loading would not notice.

    Args:
        found: the checkpoint's tensors by name.
        here: all parameters of the model by name.

    Raises:
        InputError: a name or a shape differs, or a parameter that trains is missing.
    """
    shapes = {name: tuple(value.shape) for name, value in found.items()}
    known = {name: tuple(parameter.shape) for name, parameter in here.items()}
    unknown = [name for name, shape in shapes.items() if known.get(name) != shape]
    missing = [name for name, parameter in here.items() if parameter.requires_grad and name not in shapes]
    if unknown or missing:
        first = (unknown or missing)[0]
        raise InputError(
            f"The checkpoint's trained parameters are not this config's: {len(unknown)} differ and "
            f"{len(missing)} are missing, the first being {first} (checkpoint {shapes.get(first)}, here "
            f"{known.get(first)}). Use the config the checkpoint was trained with."
        )


def _step(path: Path) -> int:
    digits = path.stem.rpartition("step=")[2].partition("-")[0]
    return int(digits) if digits.isdigit() else -1
