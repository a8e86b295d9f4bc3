"""What was answered to a question, and one answer from several orders of its options."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

# Values closer than this are a tie: rounding differs with a batch's shape by some 1e-6, and must not decide.
TIE = 1e-4


class Prediction(NamedTuple):
    """What was answered to one question, in the numbering of the input's options.

    Args:
        row: the question's row in the input, from 1.
        id: its ID there.
        answer: 1-4.
        log_probabilities: natural log-probability of each answer after the prompt (`choice`).
        text: what was generated (`generate`).
        fallback: the text began with no number from 1 to 4, so the answer is the fallback.
        rotation: in which order the options were shown (see `EncodedQuestion`).
    """

    row: int
    id: str
    answer: int
    log_probabilities: tuple[float, float, float, float] | None
    text: str | None
    fallback: bool
    rotation: int = 0


def choose(values: Sequence[float]) -> int:
    """The number 1-4 of the largest of four values; a tie goes to the smaller number.

    >>> choose([-3.0, -1.00001, -1.0, -9.0])
    2
    """
    best = max(values)
    return next(number for number, value in enumerate(values, start=1) if value >= best - TIE)


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
