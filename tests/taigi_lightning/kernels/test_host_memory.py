"""Host memory for copies: how much there is, and what happens where CUDA does not lock it."""

import gc
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from taigi_lightning.kernels import host_memory
from taigi_lightning.kernels.host_memory import (
    at_hand,
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


GROUPS = {
    2: ("0::/{path}", "", {"memory.max": "{limit}", "memory.current": "3000000"}, "inactive_file"),
    1: (
        "9:cpu,memory:/{path}", "memory", {"memory.limit_in_bytes": "{limit}", "memory.usage_in_bytes": "3000000"},
        "total_inactive_file",
    ),
}  # fmt: skip


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    ("seen", "limited", "left"),
    [
        ("", "", 3500000),  # a container's own root
        ("job/step", "job/step", 3500000),  # a batch system's group, which holds the process
        ("job/step", "job", 3500000),  # or one above it
        ("host/only", "", 3500000),  # a container that sees its path on the host
        ("job/step", "other", None),
    ],
)
def test_a_control_groups_limit_counts_where_it_is_lower(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: int, seen: str, limited: str, left: int | None
) -> None:
    line, root, files, reclaimable = GROUPS[version]
    monkeypatch.setattr(host_memory, "CONTROL_GROUPS", tmp_path / "fs")
    monkeypatch.setattr(host_memory, "OWN_GROUP", tmp_path / "cgroup")
    assert available_bytes() > 5000000
    (tmp_path / "cgroup").write_text(f"3:cpuset:/elsewhere\n{line.format(path=seen)}\n")
    for folder in ({seen, limited, "job"} if seen != "host/only" else {""}) | {"other"}:
        group = tmp_path / "fs" / root / folder
        group.mkdir(parents=True, exist_ok=True)
        limit = "5000000" if folder == limited else "max" if version == 2 else str(2**63 - 4096)
        for name, text in files.items():
            (group / name).write_text(text.format(limit=limit) + "\n")
        (group / "memory.stat").write_text(f"anon 1000000\n{reclaimable} 1500000\n")
    found = available_bytes()
    assert found == left if left is not None else found > 5000000


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
