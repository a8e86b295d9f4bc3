"""What of a GPU's memory counts: its own, with a margin for holes. PyTorch's answers stand in for a card."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from taigi_lightning import windows
from taigi_lightning.fast_path.device_memory import allowed_bytes, hold_to_own_memory, margin
from taigi_lightning.planning.activation_plan import LOOSE_MARGIN, MARGIN, system_margin
from taigi_lightning.training.machine_notes import machine_notes

GIB = 2**30
CARD = torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def eight_gib(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, float]]:
    """A card of 8 GiB, of which a desktop has one and this process has reserved half of one; yields the limit set."""
    limits = {"fraction": 1.0}
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(6.5 * GIB), 8 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: GIB // 2)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: GIB // 4)
    monkeypatch.setattr(
        torch.cuda, "set_per_process_memory_fraction", lambda share, device: limits.update(fraction=share)
    )
    monkeypatch.setattr(
        torch.cuda, "get_per_process_memory_fraction", lambda device: limits["fraction"], raising=False
    )
    hold_to_own_memory.cache_clear()
    margin.cache_clear()
    yield limits
    hold_to_own_memory.cache_clear()
    margin.cache_clear()


def system(monkeypatch: pytest.MonkeyPatch, name: str, release: str = "6.8.0-generic") -> None:
    monkeypatch.setattr("sys.platform", name)
    monkeypatch.setattr(windows.platform, "release", lambda: release)


@pytest.mark.parametrize(
    ("name", "release"), [("win32", "11"), ("linux", "5.15.167.4-microsoft-standard-WSL2")]
)
def test_where_host_memory_is_lent_a_run_keeps_to_the_cards_own(
    monkeypatch: pytest.MonkeyPatch, eight_gib: dict[str, float], name: str, release: str
) -> None:
    system(monkeypatch, name, release)
    assert hold_to_own_memory(CARD) == 7 * GIB
    assert eight_gib["fraction"] == 7 / 8
    limit, left = allowed_bytes(CARD)
    assert (limit, left) == (7 * GIB, 6.75 * GIB)
    [note] = machine_notes(CARD, compile=False)
    assert "held to the 7.0 GiB of the card's own memory that are free" in note


def test_elsewhere_the_driver_refuses_by_itself(
    monkeypatch: pytest.MonkeyPatch, eight_gib: dict[str, float]
) -> None:
    system(monkeypatch, "linux")
    assert hold_to_own_memory(CARD) is None
    assert eight_gib["fraction"] == 1.0
    assert machine_notes(CARD, compile=False) == []


@pytest.mark.usefixtures("eight_gib")
def test_one_of_several_gpus_is_named_where_they_cannot_train_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    system(monkeypatch, "win32")
    assert machine_notes(CARD, compile=False)[-1].startswith(
        "one of 2 GPUs, since PyTorch for Windows has no NCCL"
    )
    system(monkeypatch, "linux")
    assert "GPUs" not in str(machine_notes(CARD, compile=False))


def test_a_cpu_is_held_to_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    system(monkeypatch, "win32")
    assert hold_to_own_memory(torch.device("cpu")) is None


@pytest.mark.parametrize(
    ("segments", "left_free"),
    [
        (
            [{"is_expandable": False}, {"is_expandable": False}],
            LOOSE_MARGIN,
        ),  # Windows, whatever was asked for
        ([{"is_expandable": True}, {"is_expandable": False}], MARGIN),
        ([{}], LOOSE_MARGIN),
    ],
)
def test_segments_that_cannot_expand_leave_auto_more_free(
    monkeypatch: pytest.MonkeyPatch, segments: list[Any], left_free: float
) -> None:
    monkeypatch.setattr(torch.cuda, "memory_snapshot", lambda: segments)
    assert margin() == left_free


@pytest.mark.parametrize(("name", "left_free"), [("win32", LOOSE_MARGIN), ("linux", MARGIN)])
def test_a_plan_leaves_what_auto_will(monkeypatch: pytest.MonkeyPatch, name: str, left_free: float) -> None:
    system(monkeypatch, name)
    assert system_margin() == left_free
