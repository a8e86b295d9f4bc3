"""What a run tells Weights & Biases beside its metrics: where it comes from, what it made, its answers by step."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.trainer.states import TrainerFn

from taigi_lightning.atomic_write import write_json
from taigi_lightning.evaluation.predictions import answer_probabilities
from taigi_lightning.evaluation.sample_answers import sample_answers
from taigi_lightning.planning.run_files import lineage_file, read_json
from taigi_lightning.reports.model_origin import first_base
from taigi_lightning.terminal import print_line

ARTIFACT = "wandb_artifact.json"  # in a run's folder: the name of what it sent


def wandb_loggers(loggers: Sequence[Logger]) -> list[WandbLogger]:
    """Those of a run's loggers that write to Weights & Biases."""
    return [logger for logger in loggers if isinstance(logger, WandbLogger)]


class AnswersByStep(Callback):
    """After each validation, log a table of a few held-out questions with the model's answers, step by step."""

    def __init__(self) -> None:
        self._rows: list[list[Any]] = []

    def state_dict(self) -> dict[str, Any]:
        """The answers so far: a resumed run's table begins with them, as each one stands for those before."""
        return {"rows": self._rows} if self._rows else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with a checkpoint's answers."""
        self._rows = list(state_dict["rows"])

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Answer on the first rank, where Weights & Biases is logged to."""
        loggers = wandb_loggers(trainer.loggers)
        if not loggers or trainer.sanity_checking or not trainer.is_global_zero:
            return
        if trainer.state.fn != TrainerFn.FITTING:
            return
        for question, prediction in sample_answers(trainer, pl_module):
            chances = [round(chance, 4) for chance in answer_probabilities(prediction)]
            self._rows.append(
                [
                    trainer.global_step,
                    question.id,
                    question.question,
                    question.answer,
                    prediction.answer,
                    *chances,
                ]
            )
        if self._rows:
            options = range(1, len(self._rows[0]) - 4)
            columns = ["step", "id", "question", "right", "answer", *(f"p{number}" for number in options)]
            for logger in loggers:
                logger.log_table(
                    "held_out_answers", columns=columns, data=self._rows, step=trainer.global_step
                )


def name_stage(stage: str, base: str) -> None:
    """Let the run that wandb begins say its stage as its job type, and the base that it all began with as its group.

    Args:
        stage: cpt, sft or the like.
        base: the run's model folder or name; what a run's folder came from is read there.
    """
    lineage = lineage_file(Path(base))
    root = first_base(lineage) if lineage else base
    os.environ.setdefault("WANDB_JOB_TYPE", stage)
    os.environ.setdefault("WANDB_RUN_GROUP", Path(root).name)


def use_earlier_stage(logger: WandbLogger, base: str, adapter: str | None = None) -> str | None:
    """Tell a run that it goes on from the artifact of an earlier one, where that left one; returns its name.

    The config says so in any case, under `uses_artifact`; offline, wandb can do no more.

    Args:
        logger: the run's.
        base: the model folder or name that the run starts from.
        adapter: the saved adapter that it trains on, in the folder of its run.
    """
    places = [Path(base), *([Path(adapter).parent] if adapter else [])]
    name = next((name for place in places if (name := _artifact_of(place))), None)
    if name is None:
        return None
    run: Any = logger.experiment
    run.config.update({"uses_artifact": name}, allow_val_change=True)
    if not run.offline:
        try:
            logger.use_artifact(f"{name}:latest", "model")
        except Exception as error:  # of whatever kind the server's refusal is: training does not depend on it
            print_line(
                f"Weights & Biases has no artifact {name} yet ({type(error).__name__}); the config names it."
            )
    return name


def _artifact_of(folder: Path) -> str | None:
    """The artifact that a run's folder was sent as, with its entity and project as far as they are known."""
    record = read_json(folder / ARTIFACT)
    if not isinstance(record, dict) or not isinstance(record.get("artifact"), str):
        return None
    parts = [record.get(key) for key in ("entity", "project", "artifact")]
    return "/".join(str(part) for part in parts if part)


def log_artifact(logger: WandbLogger, adapter: Path, *files: Path) -> str:
    """Log one artifact with the adapter's folder and single files; offline, `wandb sync` sends it later.

    Args:
        adapter: a folder, which keeps its name in the artifact.
        files: the run's config.yaml and report.html, the corpus's manifest.json; one that is not there is left out.

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
    # For the next stage, which starts from this folder, maybe in another project.
    record = {"artifact": name, "project": run.project, "entity": run.entity if run.project else None}
    write_json(adapter.parent / ARTIFACT, {key: value for key, value in record.items() if value})
    return name
