"""The four options in other orders, and answers to them brought together again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from taigi_lightning.tasks.questions import Question

if TYPE_CHECKING:
    from taigi_lightning.evaluation.answers import Prediction

# Values closer than this are a tie: rounding differs with a batch's shape by some 1e-6, and must not decide.
TIE = 1e-4


def choose(values: Sequence[float]) -> int:
    """The number 1-4 of the largest of four values; a tie goes to the smaller number.

    >>> choose([-3.0, -1.00001, -1.0, -9.0])
    2
    """
    best = max(values)
    return next(number for number, value in enumerate(values, start=1) if value >= best - TIE)


def rotate_options(question: Question, rotation: int) -> Question:
    """The question with its options moved `rotation` places towards the front, the first ones to the end."""
    if rotation == 0:
        return question
    one, two, three, four = question.options[rotation:] + question.options[:rotation]
    return replace(question, options=(one, two, three, four))


def combine_rotations(turns: Sequence[Prediction]) -> tuple[int, tuple[float, ...]]:
    """One answer from a question's rotations: the largest mean probability.

    Args:
        turns: predictions on one question; where there is text instead of probabilities, each is a vote.

    Returns:
        the answer and the four mean probabilities, which sum to 1 over the four answers. A tie goes to the
        smaller number.
    """
    shares = [answer_probabilities(turn) for turn in turns]
    means = tuple(math.fsum(column) / len(turns) for column in zip(*shares, strict=True))
    if len(turns) == 1:
        return turns[0].answer, means
    return choose(means), means


def answer_probabilities(prediction: Prediction) -> tuple[float, ...]:
    """The probabilities of 1-4 given that the answer is one of them; all on one answer for text."""
    if prediction.log_probabilities is None:
        return tuple(float(place == prediction.answer) for place in (1, 2, 3, 4))
    top = max(prediction.log_probabilities)
    weights = [math.exp(value - top) for value in prediction.log_probabilities]
    return tuple(weight / math.fsum(weights) for weight in weights)
