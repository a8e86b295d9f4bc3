"""Host memory for copies, and what happens where CUDA does not lock it."""

import gc
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from taigi_lightning.kernels import host_memory
from taigi_lightning.kernels.host_memory import (
    at_hand,
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
        self.left = 0  # what the next check of an error would find

    def cudaHostRegister(self, address: int, size: int, flags: int) -> int:  # noqa: N802
        self.left = self.code
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
    monkeypatch.setattr(host_memory, "_forget_error", lambda: setattr(runtime, "left", 0))
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
    assert runtime.left == 0


def test_a_held_modules_tensors_stay_when_the_model_moves() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    hold_in_place(model[0])
    model.to(torch.float64)
    assert [layer.weight.dtype for layer in model] == [torch.float32, torch.float64]
    assert held_in_place(model[0])
    let_move(model[0])
    model.to(torch.float64)
    assert model[0].weight.dtype == torch.float64


def test_a_held_weight_comes_for_its_own_pass_alone() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    hold_in_place(model[0])
    hold_in_place(model[2])
    seen: list[set[int]] = []
    hosts = {layer.weight.data_ptr() for layer in model}
    for layer in model:
        layer.register_forward_hook(
            lambda *_: seen.append({layer.weight.data_ptr() for layer in model} - hosts)
        )
    wanted = model(torch.ones(1, 2))
    seen.clear()
    with at_hand(model, torch.device("cpu")):
        assert torch.equal(model(torch.ones(1, 2)), wanted)
        with pytest.raises(RuntimeError):
            model[2](torch.ones(1, 3))
    assert [len(one) for one in seen] == [1, 0, 1]
    assert {layer.weight.data_ptr() for layer in model} == hosts
    assert torch.equal(model(torch.ones(1, 2)), wanted)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA refuses only where it is")
def test_a_real_refusal_leaves_no_error_for_the_next_kernel() -> None:
    pages = host_memory._Pages(-1, 4096)
    host_memory._register(pages, 4096)
    with pytest.warns(UserWarning, match="page-locked here"):
        host_memory._register(pages, 4096)  # locked already
    assert torch.ones(3, device="cuda").add(1).sum().item() == 6
