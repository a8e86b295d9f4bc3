"""What was answered to a question, and one answer from several orders of its options."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from taigi_lightning.tasks.question_prompt import FOUR_CHOICE

# Values closer than this are a tie: rounding differs with a batch's shape by some 1e-6, and must not decide.
TIE = 1e-4


class Prediction(NamedTuple):
    """What was answered to one question, in the numbering of the input's options.

    Args:
        row: the question's row in the input, from 1.
        id: its ID there.
        answer: the option's number, from 1.
        log_probabilities: natural log-probability of each answer after the prompt (`choice`).
        text: what was generated (`generate`).
        fallback: the text began with no answer, so the answer is the fallback.
        rotation: in which order the options were shown (see `EncodedQuestion`).
        labels: what the answers are called, with spaces between.
    """

    row: int
    id: str
    answer: int
    log_probabilities: tuple[float, ...] | None
    text: str | None
    fallback: bool
    rotation: int = 0
    labels: str = " ".join(FOUR_CHOICE.answers)

    @property
    def names(self) -> tuple[str, ...]:
        """What the answers are called, in order."""
        return tuple(self.labels.split())


def choose(values: Sequence[float]) -> int:
    """The number, from 1, of the largest value; a tie goes to the smaller number.

    >>> choose([-3.0, -1.00001, -1.0, -9.0])
    2
    """
    best = max(values)
    return next(number for number, value in enumerate(values, start=1) if value >= best - TIE)


# One character for each option's number: a file may hold the answers of several orders as one text.
NUMBERS = "1234567890"


def by_order(turns: Sequence[Prediction]) -> str:
    """The answers of a question's rotations, a digit each in the input's numbering; 0 is the tenth option."""
    return "".join(NUMBERS[turn.answer - 1] for turn in turns)


def by_row(predictions: Iterable[Prediction]) -> dict[int, list[Prediction]]:
    """The predictions on each question in the order of its rotations; the questions in the input's order."""
    found: dict[int, list[Prediction]] = defaultdict(list)
    for prediction in sorted(predictions, key=lambda p: (p.row, p.rotation)):
        found[prediction.row].append(prediction)
    return dict(found)


def combine_rotations(turns: Sequence[Prediction]) -> tuple[int, tuple[float, ...]]:
    """One answer from a question's rotations: the largest mean probability.

    Args:
        turns: predictions on one question; where there is text instead of probabilities, each is a vote.

    Returns:
        the answer and the mean probabilities, which sum to 1 over the answers. A tie goes to the
        smaller number.
    """
    shares = [answer_probabilities(turn) for turn in turns]
    means = tuple(math.fsum(column) / len(turns) for column in zip(*shares, strict=True))
    if len(turns) == 1:
        return turns[0].answer, means
    return choose(means), means


def answer_probabilities(prediction: Prediction) -> tuple[float, ...]:
    """The probabilities of the answers given that it is one of them; all on one answer for text."""
    if prediction.log_probabilities is None:
        return tuple(float(place == prediction.answer) for place in range(1, len(prediction.names) + 1))
    top = max(prediction.log_probabilities)
    weights = [math.exp(value - top) for value in prediction.log_probabilities]
    return tuple(weight / math.fsum(weights) for weight in weights)


def log_shares(turns: Sequence[Prediction]) -> tuple[float, ...]:
    """The logarithms of the probabilities that `combine_rotations` gives, in nats, where those would be rounded to 0.

    NaN where a prediction's log-probabilities are no numbers.
    """
    parts = []
    for turn in turns:
        assert turn.log_probabilities is not None
        total = _log_sum(turn.log_probabilities)
        parts.append([value - total for value in turn.log_probabilities])
    return tuple(_log_sum(column) - math.log(len(turns)) for column in zip(*parts, strict=True))


def _log_sum(values: Sequence[float]) -> float:
    """log(sum(exp(values)))."""
    top = max(values)
    if top == -math.inf:
        return top
    return top + math.log(math.fsum(math.exp(value - top) for value in values))
