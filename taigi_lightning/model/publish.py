"""A finished model's files, renamed into their folder so that nothing half written ever loads."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from taigi_lightning.errors import InputError
from taigi_lightning.model.safetensors_files import INDEX, tokenizer_files
from taigi_lightning.planning.run_files import LINEAGE
from taigi_lightning.signals import held_back
from taigi_lightning.windows import in_use, patiently

CONFIG = "config.json"


def publish_model(aside: Path, folder: Path, config: bytes) -> None:
    """Rename files into place; config.json, without which nothing loads, comes last.

    Weights, index, config, lineage and tokenizer of an earlier model go first. A process that is killed meanwhile
    leaves no folder that loads; Ctrl-C waits until the new model is there.

    Args:
        aside: holds every file but config.json, on the same disk as `folder`; gone afterwards.
        folder: the model's, whose other files and folders stay.
        config: what config.json is to hold.

    Raises:
        InputError: another program holds a file of the earlier model open, which stays as it was.
    """
    new = sorted(aside.iterdir())
    weights = folder.glob("model*.safetensors")
    tokens = [path for path in tokenizer_files(folder) if not (aside / path.name).exists()]
    stale = [folder / CONFIG, folder / INDEX, folder / LINEAGE, *weights, *tokens]
    for path in [*stale, *(folder / path.name for path in new)]:
        if in_use(path):
            raise InputError(
                f"{path} is open in another program, so the model cannot be replaced; the earlier one is unchanged. "
                "Close it there and run the same command again, or merge into another folder."
            )
    with held_back():
        for path in stale:
            patiently(partial(path.unlink, missing_ok=True))
        for path in new:
            patiently(partial(path.replace, folder / path.name))
        (aside / CONFIG).write_bytes(config)  # no sooner: what is written aside must not load either
        patiently(lambda: (aside / CONFIG).replace(folder / CONFIG))
        aside.rmdir()
