"""How much host memory a process may take for activations, and where they lie there."""

import pytest
import torch
from torch import Tensor

from taigi_lightning.fast_path import activation_offload
from taigi_lightning.fast_path.activation_offload import HostBuffers, host_budget
from taigi_lightning.planning.memory import GIB


def test_processes_of_one_machine_share_half_of_its_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activation_offload, "available_bytes", lambda: 4 * GIB)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    inf = float("inf")
    assert host_budget(True, 0.0, inf).activations(0.0, 0.0) == 2 * GIB
    assert host_budget(True, 2 * GIB, inf).activations(2 * GIB, 0.0) == pytest.approx(2.8 * GIB)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert host_budget(True, 0.0, inf).activations(0.0, 0.0) == GIB // 2
    assert host_budget(False, 0.0, inf).activations(0.0, 0.0) == 0.0
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    assert host_budget(3, 0.0, inf).activations(0.0, 0.0) == 3 * GIB
    assert host_budget(8, 0.0, inf).activations(0.0, 0.0) == pytest.approx(3.2 * GIB)  # more than there is


class _Locked(Tensor):
    """A tensor that says of itself that it is page-locked."""

    def is_pinned(self, device: object = None) -> bool:
        return True


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes that were asked of a system that locks 1,000 bytes and has 2,000."""
    sizes: list[int] = []

    def host_tensor(shape: tuple[int], dtype: torch.dtype) -> Tensor:
        if sum(sizes) + shape[0] > 2000:
            raise MemoryError
        sizes.append(shape[0])
        made = torch.empty(shape, dtype=dtype)
        return made.as_subclass(_Locked) if sum(sizes) <= 1000 else made

    monkeypatch.setattr(activation_offload, "host_tensor", host_tensor)
    return sizes


def test_buffers_serve_again_and_never_pass_the_limit(asked: list[int]) -> None:
    buffers = HostBuffers()
    assert buffers.reserve({"a": 100, "b": 200}, limit=400)
    assert buffers.reserve({"a": 50}, limit=400)  # a smaller shape comes and goes
    assert buffers.reserve({"a": 100, "b": 200}, limit=400)
    assert asked == [100, 200]
    assert buffers.reserve({"a": 100, "c": 90}, limit=400)
    assert buffers.reserve({"a": 150, "c": 80, "d": 100}, limit=400)
    assert asked == [100, 200, 150, 80]  # what was another's serves, but not where all would pass the limit
    assert sorted(buffers.buffers) == ["a", "c", "d"]
    assert buffers.reserve({"e": 90, "f": 110, "g": 150}, limit=400)
    assert buffers.host_bytes() == buffers.locked_bytes() <= 400
    assert buffers.reserve({"e": 20, "f": 100}, limit=120)
    assert buffers.host_bytes() == 120


def test_what_nobody_wants_goes_before_what_is_larger_than_wanted(asked: list[int]) -> None:
    buffers = HostBuffers()
    assert buffers.reserve({"a": 200, "b": 100}, limit=400)
    assert buffers.reserve({"a": 50, "c": 150}, limit=400)
    assert asked == [200, 100, 150]
    assert {key: b.nbytes for key, b in buffers.buffers.items()} == {"a": 200, "c": 150}


def test_memory_that_is_not_locked_or_not_there_is_told(asked: list[int]) -> None:
    buffers = HostBuffers()
    assert not buffers.reserve({"a": 900, "b": 200}, limit=2000)
    assert buffers.locked_bytes() == 900
    assert not buffers.reserve({"a": 900, "b": 200, "c": 1000}, limit=5000)
