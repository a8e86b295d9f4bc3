"""A pass over held-out data weighs tokens and questions, not batches."""

import math

import pytest
import torch

from taigi_lightning.training.validation_metrics import HeldOutSums

CPU = torch.device("cpu")


def test_batches_of_different_sizes_count_by_what_they_hold() -> None:
    sums = HeldOutSums()
    sums.add_loss(torch.tensor(6.0), tokens=2)
    sums.add_loss(torch.tensor(2.0), tokens=6)
    sums.add_answers(correct=1, questions=1)
    sums.add_answers(correct=0, questions=3)
    found = {name: float(value) for name, value in sums.metrics(CPU).items()}
    assert found == pytest.approx({"val/loss": 1.0, "val/perplexity": math.e, "val/accuracy": 0.25})


def test_no_accuracy_is_claimed_where_nothing_was_asked() -> None:
    sums = HeldOutSums()
    sums.add_loss(torch.tensor(6.0), tokens=2)
    assert sorted(sums.metrics(CPU)) == ["val/loss", "val/perplexity"]
