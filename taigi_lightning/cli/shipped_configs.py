"""The stage configs that come with the package: found by name where the folder has none of its own."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import taigi_lightning

OPTIONS = ("-c", "--config")


def shipped_configs() -> Path:
    """The folder of the configs: inside an installed package, beside it in a checkout."""
    installed = Path(str(files(taigi_lightning))) / "configs"
    return installed if installed.is_dir() else installed.parents[1] / "configs"


def with_shipped_configs(arguments: Sequence[str]) -> tuple[list[str], list[Path]]:
    """The command line with each config that is not there replaced by the shipped one of its name.

    `cpt.yaml` and `configs/cpt.yaml` both stand for the shipped cpt.yaml; a file in the folder always wins.

    Returns:
        the arguments, and the shipped files that they now name.
    """
    used: list[Path] = []

    def place(name: str) -> str:
        path = Path(name)
        shipped = shipped_configs() / path.name
        if path.exists() or path.parent not in (Path(), Path("configs")) or not shipped.is_file():
            return name
        used.append(shipped)
        return str(shipped)

    found, before = [], ""
    for word in arguments:
        option, equals, value = word.partition("=")
        if before in OPTIONS:
            found.append(place(word))
        elif equals and option in OPTIONS:
            found.append(f"{option}={place(value)}")
        else:
            found.append(word)
        before = word
    return found, used
