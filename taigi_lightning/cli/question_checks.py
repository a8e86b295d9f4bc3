"""Questions that a config names, read before anything heavy is imported: what is wrong with them is said at once."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from taigi_lightning.data.hub import is_address
from taigi_lightning.tasks.conversation_forms import InstructionTemplate
from taigi_lightning.tasks.conversations import read_conversations
from taigi_lightning.tasks.question_prompt import QuestionPrompt
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
                for source in _sources(settings.train_file):
                    questions = _read(source, settings)
                    if questions and not settings.validation_file:
                        split_by_passage(questions, settings.validation_fraction)
        elif kind == "InstructionDataModule":
            _check_conversations(command, settings)
    finally:
        logging.disable(logging.NOTSET)


def _check_conversations(command: str, settings: Any) -> None:
    check_fraction(settings.validation_fraction)
    files = [settings.validation_file] if settings.validation_file else []
    if command == "fit" or not settings.validation_file:
        files += _sources(settings.train_file)
    template = settings.template and InstructionTemplate(
        settings.template.user, settings.template.assistant, settings.template.system
    )
    for file in files:
        if not _is_large(Path(file)):
            read_conversations(file, settings.columns, template, settings.group_by)


def _sources(train_file: Any) -> list[str]:
    """One file, or the names of several with their shares."""
    return list(train_file) if isinstance(train_file, dict) else [str(train_file)]


def _is_large(path: Path) -> bool:
    """Whether a file is not worth reading here; one of the Hub is fetched by its data module."""
    return is_address(path) or (path.is_file() and path.stat().st_size > LARGE)


def _read(file: str | Path, settings: Any, *, need_answers: bool = True) -> list[Question]:
    path = Path(str(file))
    if _is_large(path):
        return []
    unique = "train_file" not in settings
    given = settings.prompt
    prompt = QuestionPrompt(given.text, given.option, given.options, given.labels)
    return read_questions(path, settings.columns, need_answers=need_answers, unique_ids=unique, prompt=prompt)
