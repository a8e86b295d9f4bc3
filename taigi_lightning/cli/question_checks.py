"""Questions that a config names, read before anything heavy is imported: what is wrong with them is said at once."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from taigi_lightning.tasks.questions import Question, read_questions
from taigi_lightning.tasks.validation_split import check_fraction, split_by_passage

LARGE = 20 * 2**20  # bytes; to read more twice costs more than to be refused late


def check_questions(command: str, config: Any) -> None:
    """Read the questions as the data module will.

    Args:
        command: fit, validate, test or predict.
        config: what the parser made of the command line.

    Raises:
        InputError: a file or one of its rows cannot be used, or nothing is left to train on.
    """
    kind, settings = config.data.class_path.rpartition(".")[2], config.data.init_args
    logging.disable(logging.WARNING)  # said when the data module reads them
    try:
        if kind == "PredictDataModule":
            _read(settings.questions, settings, need_answers=command == "test")
        elif kind == "SFTDataModule":
            check_fraction(settings.validation_fraction)
            if settings.validation_file:
                _read(settings.validation_file, settings)
            if command == "fit" or not settings.validation_file:
                questions = _read(settings.train_file, settings)
                if questions and not settings.validation_file:
                    split_by_passage(questions, settings.validation_fraction)
    finally:
        logging.disable(logging.NOTSET)


def _read(file: str | Path, settings: Any, *, need_answers: bool = True) -> list[Question]:
    path = Path(str(file))
    if path.is_file() and path.stat().st_size > LARGE:
        return []
    unique = "train_file" not in settings
    return read_questions(path, settings.columns, need_answers=need_answers, unique_ids=unique)
