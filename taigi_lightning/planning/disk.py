"""What a run leaves on disk, and whether it fits there, asked before the run."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from taigi_lightning.errors import InputError


def run_bytes(
    *, adapter: int, optimizer: int, checkpoints: int, merged: int, directions: int = 0
) -> dict[str, int]:
    """Bytes that a run writes into its folder, by purpose.

    Args:
        adapter: what is trained.
        optimizer: its state, which a checkpoint holds too.
        checkpoints: how many are kept; one more is there while the newest is written.
        merged: the merged or whole model; an earlier one there is replaced only when the new one is whole.
        directions: what a checkpoint holds of those that products in int8_mixed are split along.
    """
    kept = checkpoints + 1 if checkpoints else 0
    needs = {
        "checkpoints": kept * (adapter + optimizer + directions),
        "adapter": adapter,
        "merged model": merged,
    }
    return {name: size for name, size in needs.items() if size}


def free_space(folder: str | Path) -> tuple[Path, int]:
    """The nearest folder that exists, `folder` itself or one above it, and the bytes free on its disk.

    Raises:
        InputError: none exists, since the drive or network folder is not there.
    """
    absolute = Path(folder).absolute()
    place = next((path for path in (absolute, *absolute.parents) if path.is_dir()), None)
    if place is None:
        raise InputError(
            f"{absolute.anchor} is no drive or network folder here. Give a folder that can be reached."
        )
    return place, shutil.disk_usage(place).free


def check_space(folder: str | Path, needs: Mapping[str, int], advice: str) -> None:
    """Refuse a folder on whose disk too little is free.

    Args:
        needs: bytes by purpose.
        advice: what to do, the message's last sentence.

    Raises:
        InputError: with the sizes, in GB.
    """
    wanted, (_, free) = sum(needs.values()), free_space(folder)
    if free < wanted:
        parts = ", ".join(f"{name} {size / 1e9:.2f}" for name, size in needs.items())
        raise InputError(
            f"{wanted / 1e9:.2f} GB are needed in {folder} ({parts}), where {free / 1e9:.2f} GB are free. {advice}"
        )
