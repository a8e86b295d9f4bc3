"""A finished model's files, renamed into their folder so that nothing half written ever loads."""

from __future__ import annotations

from pathlib import Path

from taigi_lightning.model.safetensors_files import INDEX, tokenizer_files
from taigi_lightning.planning.run_files import LINEAGE

CONFIG = "config.json"


def publish_model(aside: Path, folder: Path, config: bytes) -> None:
    """Rename files into place; config.json, without which nothing loads, comes last.

    Weights, index, config, lineage and tokenizer of an earlier model go first. A process that is killed meanwhile
    leaves no folder that loads.

    Args:
        aside: holds every file but config.json, on the same disk as `folder`; gone afterwards.
        folder: the model's, whose other files and folders stay.
        config: what config.json is to hold.
    """
    weights = folder.glob("model*.safetensors")
    tokens = [path for path in tokenizer_files(folder) if not (aside / path.name).exists()]
    for stale in (folder / CONFIG, folder / INDEX, folder / LINEAGE, *weights, *tokens):
        stale.unlink(missing_ok=True)
    for path in sorted(aside.iterdir()):
        path.replace(folder / path.name)
    (aside / CONFIG).write_bytes(config)
    (aside / CONFIG).replace(folder / CONFIG)
    aside.rmdir()
