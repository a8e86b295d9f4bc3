"""Holding questions out for validation, by whole passages."""

from __future__ import annotations

import hashlib

from taigi_lightning.errors import InputError
from taigi_lightning.tasks.questions import Question


def check_fraction(fraction: float) -> None:
    """Refuse a share that is none.

    Raises:
        InputError: the fraction is below 0, or 1 or more.
    """
    if not 0 <= fraction < 1:
        raise InputError(f"validation_fraction is {fraction}. Set it to 0 or more and below 1.")


def split_by_passage(questions: list[Question], fraction: float) -> tuple[list[Question], list[Question]]:
    """Hold out about `fraction` of the questions, all questions on one passage together.

    Which passages are held out depends on their text alone: neither on the seed nor on the rows' order, so
    runs with different seeds are validated on the same questions. White space does not make a passage new.

    Returns:
        The questions to train on and those held out, each in file order.

    Raises:
        InputError: a share is asked for, and there is only one passage, or it would leave nothing to train on.
    """
    check_fraction(fraction)
    counts: dict[bytes, int] = {}
    for question in questions:
        key = passage_key(question)
        counts[key] = counts.get(key, 0) + 1
    if fraction and len(counts) == 1:
        raise InputError(
            "All questions share one passage. Set validation_fraction to 0 or give a validation_file."
        )
    held_out: set[bytes] = set()
    missing = max(1, round(fraction * len(questions))) if fraction else 0
    if missing >= len(questions):
        raise InputError(
            f"validation_fraction {fraction} of {len(questions)} questions leaves none to train on. Lower it, or give "
            "a validation_file and set it to 0."
        )
    for key in sorted(counts)[:-1]:
        if missing <= 0:
            break
        held_out.add(key)
        missing -= counts[key]
    train = [question for question in questions if passage_key(question) not in held_out]
    return train, [question for question in questions if passage_key(question) in held_out]


def passage_key(question: Question) -> bytes:
    """Identify a passage; white space does not make it another one."""
    return hashlib.blake2b("".join(question.passage.split()).encode()).digest()
