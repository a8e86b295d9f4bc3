"""What is said of a card on which products in 8 bits gain nothing."""

from typing import Any

import pytest
import torch

from taigi_lightning.fast_path import machine_speed
from taigi_lightning.fast_path.machine_speed import slow_products
from taigi_lightning.planning.step_time import Machine

CARD = torch.device("cuda")


def rates(monkeypatch: pytest.MonkeyPatch, **found: float) -> None:
    """Let a card make so many operations a second in each kind of products."""

    def measure(_: Any, __: Any, matmul: str = "bf16") -> Machine:
        return Machine(link=1.0, rate=found[matmul])

    monkeypatch.setattr(machine_speed, "measure_machine", measure)


def test_a_card_that_multiplies_8_bits_no_faster_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    rates(monkeypatch, bf16=100.0, int8=80.0, fp8=180.0)
    for matmul in ("int8", "int8_backward"):
        said = slow_products(matmul, CARD, torch.bfloat16)  # type: ignore[arg-type]
        assert said is not None and "in int8 take 1.25 times as long" in said and "matmul bf16" in said
    assert slow_products("fp8", CARD, torch.bfloat16) is None


def test_nothing_is_measured_where_nothing_is_rounded() -> None:
    assert slow_products("bf16", CARD, torch.bfloat16) is None
    assert slow_products("int8", torch.device("cpu"), torch.float32) is None
