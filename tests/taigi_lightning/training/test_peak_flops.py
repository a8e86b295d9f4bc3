"""What a card could do, whether Lightning knows its name or not."""

import pytest
import torch

from taigi_lightning.training.peak_flops import estimated_flops, peak_flops


class Card:
    """In the place of `torch.cuda`'s answers."""

    def __init__(self, name: str, multiprocessors: int, clock_rate: int) -> None:
        self.name, self.multi_processor_count, self.clock_rate = name, multiprocessors, clock_rate


@pytest.mark.parametrize(
    ("name", "capability", "multiprocessors", "clock", "wanted"),
    [
        ("NVIDIA H100 80GB HBM3", (9, 0), 132, 1_980_000, 989.4),  # Lightning's own
        ("NVIDIA H200", (9, 0), 132, 1_980_000, 989.4),
        ("NVIDIA H200 NVL", (9, 0), 132, 1_785_000, 835.5),
        ("NVIDIA A30", (8, 0), 56, 1_440_000, 165),  # the data sheet's, from what it is made of
        ("NVIDIA GeForce RTX 5070 Ti", (12, 0), 70, 2_452_000, 87.9),
    ],
)
def test_data_sheets_figures_are_met(
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    capability: tuple[int, int],
    multiprocessors: int,
    clock: int,
    wanted: float,
) -> None:
    card = Card(name, multiprocessors, clock)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: name)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: card)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    found = peak_flops(torch.device("cuda:0"), torch.bfloat16)
    assert found == pytest.approx(wanted * 1e12, rel=0.01)


def test_of_a_card_without_a_known_clock_or_kind_nothing_is_said() -> None:
    assert estimated_flops("Some Card", (9, 0), 100, 0.0, torch.bfloat16) is None
    assert estimated_flops("Some Card", (7, 0), 100, 1e9, torch.bfloat16) is None
    assert estimated_flops("NVIDIA H200", (9, 0), 132, 0.0, torch.float32) is None
