"""Host memory for copies: how much there is, and what happens where CUDA does not lock it."""

import gc
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from taigi_lightning.kernels import host_memory
from taigi_lightning.kernels.host_memory import (
    available_bytes,
    held_in_place,
    hold_in_place,
    host_tensor,
    let_move,
)


class Runtime:
    """CUDA's two calls; it answers with a code and notes what is registered."""

    def __init__(self, code: int) -> None:
        self.code = code
        self.sizes: dict[int, int] = {}

    def cudaHostRegister(self, address: int, size: int, flags: int) -> int:  # noqa: N802
        if not self.code:
            self.sizes[address] = size
        return self.code

    def cudaHostUnregister(self, address: int) -> None:  # noqa: N802
        del self.sizes[address]


@pytest.fixture
def runtime(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Runtime:
    runtime = Runtime(request.param)
    cuda = SimpleNamespace(is_available=lambda: True, cudart=lambda: runtime)
    monkeypatch.setattr(host_memory.torch, "cuda", cuda)
    return runtime


@pytest.mark.parametrize("runtime", [0], indirect=True)
def test_exactly_what_is_asked_for_is_locked_and_unlocked_with_the_last_view(runtime: Runtime) -> None:
    tensor = host_tensor((3, 1000), torch.bfloat16)
    assert tensor.shape == (3, 1000)
    assert list(runtime.sizes.items()) == [(tensor.data_ptr(), 6000)]
    row = tensor.fill_(2.0)[1]
    del tensor
    gc.collect()
    assert runtime.sizes
    assert (row == 2.0).all()
    del row
    gc.collect()
    assert not runtime.sizes


@pytest.mark.parametrize("runtime", [2], indirect=True)
def test_memory_that_cannot_be_locked_serves_and_one_sentence_says_so(runtime: Runtime) -> None:
    with pytest.warns(UserWarning, match=r"page-locked here \(CUDA answers error 2\).*weights_on_host none"):
        tensor = host_tensor((4,), torch.float32)
    assert torch.equal(tensor.fill_(1.0), torch.ones(4))


def test_a_containers_limit_counts_where_it_is_lower(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(host_memory, "CONTROL_GROUP", tmp_path)
    whole = available_bytes()
    (tmp_path / "memory.max").write_text("max\n")
    assert available_bytes() > whole // 2
    (tmp_path / "memory.max").write_text("5000000\n")
    (tmp_path / "memory.current").write_text("3000000\n")
    (tmp_path / "memory.stat").write_text("anon 1000000\ninactive_file 1500000\n")
    assert available_bytes() == 3500000


def test_a_held_modules_tensors_stay_when_the_model_moves() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    hold_in_place(model[0])
    model.to(torch.float64)
    assert [layer.weight.dtype for layer in model] == [torch.float32, torch.float64]
    assert held_in_place(model[0])
    let_move(model[0])
    model.to(torch.float64)
    assert model[0].weight.dtype == torch.float64
