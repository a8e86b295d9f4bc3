"""Solved examples before a question, for models that were never trained on the task."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from taigi_lightning.errors import InputError
from taigi_lightning.tasks.question_prompt import FOUR_CHOICE, QuestionPrompt
from taigi_lightning.tasks.questions import Question, read_questions
from taigi_lightning.tasks.validation_split import passage_key


def solved_examples(
    source: Path | None, asked: Sequence[Question], count: int, prompt: QuestionPrompt = FOUR_CHOICE
) -> list[Question]:
    """Solved examples to stand before each question, the same for every model.

    Args:
        source: where they come from.
        asked: the questions; no example has one of their passages.
        prompt: says how many options the questions have.
        count: how many; each has a passage of its own, and passages longer than most are left out.

    Raises:
        InputError: there is no source, or too few passages in it.
    """
    if count == 0:
        return []
    if source is None:
        raise InputError(f"{count} solved examples were asked for. Name their file with --examples.")
    known = {passage_key(question) for question in asked}
    read = read_questions(source, need_answers=True, unique_ids=False, prompt=prompt)
    pool = [question for question in read if passage_key(question) not in known]
    middle = sorted(len(q.passage) for q in pool)[len(pool) // 2] if pool else 0
    short = {passage_key(q): q for q in reversed(pool) if len(q.passage) <= middle}
    chosen = sorted(short.values(), key=_shuffle_key)[:count]
    if len(chosen) < count:
        raise InputError(
            f"{source} has {len(chosen)} passages fit for examples, and --shots asks for {count}. Lower it, or "
            "give a larger file: passages asked about are left out, and the longer half."
        )
    return chosen


def _shuffle_key(question: Question) -> bytes:
    """A random but lasting order."""
    return hashlib.blake2b(f"{question.passage}{question.question}".encode()).digest()
