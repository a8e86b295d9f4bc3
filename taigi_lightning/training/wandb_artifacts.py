"""What a finished run sends to Weights & Biases, when asked: adapter, config and corpus manifest."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, WandbLogger


def wandb_loggers(loggers: Sequence[Logger]) -> list[WandbLogger]:
    """Those of a run's loggers that write to Weights & Biases."""
    return [logger for logger in loggers if isinstance(logger, WandbLogger)]


def log_artifact(logger: WandbLogger, adapter: Path, *files: Path) -> str:
    """Log one artifact with the adapter's folder and single files; offline, `wandb sync` sends it later.

    Args:
        adapter: a folder, which keeps its name in the artifact.
        files: the run's config.yaml, the corpus's manifest.json; one that is not there is left out.

    Returns:
        the artifact's name, after the run's: a second run makes a second version of it.
    """
    import wandb

    run: Any = logger.experiment
    name = re.sub(r"[^\w.-]", "-", f"{run.name or run.id}-adapter")
    artifact = wandb.Artifact(
        name, type="model", description="LoRA adapter with its run's config and corpus manifest"
    )
    artifact.add_dir(str(adapter), name=adapter.name)
    for file in files:
        if file.is_file():
            # Of several corpora each has a manifest.json.
            alike = sum(other.name == file.name for other in files) > 1
            artifact.add_file(str(file), name=f"{file.parent.name}/{file.name}" if alike else file.name)
    run.log_artifact(artifact)
    return name
