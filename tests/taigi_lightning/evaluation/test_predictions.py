"""Answers to several orders of the options, brought together."""

import math

import pytest

from taigi_lightning.evaluation.predictions import Prediction, choose, combine_rotations


def turn(answer: int, *probabilities: float, rotation: int = 0, text: str | None = None) -> Prediction:
    logs = tuple(map(math.log, probabilities)) if probabilities else None
    return Prediction(1, "a", answer, logs, text, False, rotation)  # type: ignore[arg-type]


def test_orders_are_averaged_as_probabilities() -> None:
    turns = [turn(1, 0.4, 0.3, 0.2, 0.1), turn(2, 0.1, 0.7, 0.1, 0.1, rotation=1)]
    assert combine_rotations(turns) == (2, pytest.approx((0.25, 0.5, 0.15, 0.1)))


def test_generated_answers_vote_and_a_tie_goes_to_the_smaller() -> None:
    assert combine_rotations([turn(3, text="3"), turn(2, text="2")]) == (2, (0.0, 0.5, 0.5, 0.0))


def test_rounding_does_not_decide_a_tie() -> None:
    assert choose([-2.0, -1.0 - 1e-6, -1.0, -1.0]) == 2
    assert choose([-2.0, -1.001, -1.0, -3.0]) == 3
