"""What a stage leaves to read when it has ended: reports and model cards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.loggers import CSVLogger

from taigi_lightning.evaluation.prediction_writer import PredictionWriter, probabilities_path
from taigi_lightning.reports.model_card import write_model_cards
from taigi_lightning.reports.prediction_report import write_predict_report
from taigi_lightning.reports.training_report import write_fit_report
from taigi_lightning.terminal import print_line


def report_training(trainer: pl.Trainer) -> None:
    """Write a run's report, and cards beside its adapter and the whole model, on the first rank."""
    folder = Path(trainer.default_root_dir)
    logged = any(isinstance(logger, CSVLogger) for logger in trainer.loggers)
    if not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
        return
    if logged:
        print_line(f"Report: {write_fit_report(folder)}")
    if any(
        (part / "lineage.json").is_file() for part in (folder, folder / "adapter")
    ):  # a base made from scratch has none
        write_model_cards(folder, logged=logged)


def report_predictions(trainer: pl.Trainer, module: Any, data: Any) -> None:
    """Write a report beside what a `PredictionWriter` wrote in this run, on the first rank."""
    for writer in trainer.callbacks:  # type: ignore[attr-defined]
        if not isinstance(writer, PredictionWriter) or not writer.written or not trainer.is_global_zero:
            continue
        named = {
            "model": module.base,
            "adapter": module.adapter,
            "products in": writer.said,
            "questions": data.path,
        }
        details, labels = probabilities_path(writer.output), data.prompt.answers
        print_line(f"Report: {write_predict_report(writer.output, details, data.asked, named, labels)}")
