"""What the driver says of the cards here, and that a plan refuses and counts by it what a run would."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from taigi_lightning.errors import InputError
from taigi_lightning.evaluation.model_setup import check_matmul
from taigi_lightning.planning import command
from taigi_lightning.planning.cards import FIELDS, Card, found_cards, read_cards
from taigi_lightning.planning.command import plan_config
from taigi_lightning.planning.memory import GIB
from taigi_lightning.planning.plan_text import render
from tests.taigi_lightning.planning.test_command import CPT, ROOT, plan

T4 = Card("Tesla T4", 15 * GIB, "7.5")
RTX = Card("NVIDIA GeForce RTX 5050", 8 * GIB, "12.0")
A100 = Card("NVIDIA A100", 40 * GIB, "8.0")
NEW, OLD = (  # of a driver that knows compute_cap, and of one that does not
    "0, GPU-11aa, 8151, 1024, 12.0, NVIDIA GeForce RTX 5050\n1, GPU-22bb, 15360, 3, 7.5, Tesla T4\n",
    "0, GPU-11aa, 8151, 1024, NVIDIA GeForce RTX 5050\n1, GPU-22bb, 15360, 3, Tesla T4\n",
)


@pytest.fixture(autouse=True)
def _host(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host whose memory stays as it is while a test compares."""
    monkeypatch.setattr(command, "available_bytes", lambda: 64 * GIB)


def config(matmul: str = "int8", **more: Any) -> dict[str, Any]:
    """A stage's config on the default base."""
    return {"model": {"lora": {"r": 8}, "matmul": matmul}, "data": "CPTDataModule", **more}


def answering(monkeypatch: pytest.MonkeyPatch, known: bool) -> None:
    """A driver that knows what cards compute, or does not."""

    def run(query: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        if "compute_cap" in query[1] and not known:
            return subprocess.CompletedProcess(query, 2, 'Field "compute_cap" is not a valid field to query.')
        return subprocess.CompletedProcess(query, 0, NEW if known else OLD)

    monkeypatch.setattr("taigi_lightning.planning.cards.shutil.which", lambda _: "nvidia-smi")
    monkeypatch.setattr("taigi_lightning.planning.cards.subprocess.run", run)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.parametrize("known", [True, False])
def test_the_driver_is_asked_what_a_card_computes_and_what_of_it_is_free(
    monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    answering(monkeypatch, known)
    first, second = found_cards()
    assert (first.name, first.memory_bytes, first.free_bytes) == (RTX.name, 8151 * 2**20, 7127 * 2**20)
    assert (first.capability, second.capability) == (((12, 0), (7, 5)) if known else (None, None))


@pytest.mark.parametrize(
    ("visible", "names"),
    [(None, [RTX.name, T4.name]), ("1", [T4.name]), ("1,0", [T4.name, RTX.name]), ("", []), ("-1", []),
     ("GPU-22", [T4.name])],
)  # fmt: skip
def test_a_card_that_a_process_does_not_see_is_none(visible: str | None, names: list[str]) -> None:
    assert [card.name for card in read_cards(NEW, FIELDS[0], visible)] == names


def test_what_the_driver_does_not_know_is_not_guessed() -> None:
    assert read_cards("0, GPU-1, [N/A], [N/A], 12.1, NVIDIA GB10\n", FIELDS[0], None) == []
    (card,) = read_cards("0, GPU-1, 8151, [N/A], [N/A], A card, B\n", FIELDS[0], None)
    assert card == Card("A card, B", 8151 * 2**20)
    assert read_cards("No devices were found\n", FIELDS[0], None) == []


@pytest.mark.parametrize(
    ("card", "matmul", "fault"),
    [
        (T4, "int8", "Tesla T4 has compute capability 7.5, and this begins with 8.0 (Ampere)"),
        (T4, "int8_backward", "Tesla T4 has compute capability 7.5, and this begins"),
        (A100, "fp8", "NVIDIA A100 has compute capability 8.0, and fp8 begins with 8.9 (Ada, Hopper"),
        (A100, "int8_mixed", None),
        (RTX, "fp8_backward", None),
        (T4, "bf16", None),
    ],
)
def test_a_plan_and_a_run_refuse_alike_what_a_card_cannot_multiply(
    monkeypatch: pytest.MonkeyPatch, tiny_llama_dir: Path, card: Card, matmul: Any, fault: str | None
) -> None:
    monkeypatch.setattr(command, "found_cards", lambda: [card])
    monkeypatch.setattr(command, "triton_fault", lambda: None)
    monkeypatch.setattr("taigi_lightning.kernels.int8.triton_fault", lambda: None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: card.capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: card.name)
    device = torch.device("cuda", 0)
    if fault is None:
        check_matmul(matmul, str(tiny_llama_dir), "nf4", device, torch.bfloat16)
        plan_config(config(matmul))
        return
    said = []
    for refusing in (
        lambda: plan_config(config(matmul)),
        lambda: check_matmul(matmul, str(tiny_llama_dir), "nf4", device, torch.bfloat16),
    ):
        with pytest.raises(InputError) as refused:
            refusing()
        said.append(str(refused.value))
    assert said[0] == said[1]
    assert said[0].startswith(f"model.matmul is {matmul}, but {fault}")
    assert said[0].endswith("Set --model.matmul bf16.")


def test_without_triton_a_plan_for_the_card_here_refuses_int8_as_a_run_does(
    monkeypatch: pytest.MonkeyPatch, tiny_llama_dir: Path
) -> None:
    lacking = "ModuleNotFoundError: No module named 'triton'"
    monkeypatch.setattr(command, "found_cards", lambda: [RTX])
    monkeypatch.setattr(command, "triton_fault", lambda: lacking)
    monkeypatch.setattr("taigi_lightning.kernels.int8.triton_fault", lambda: lacking)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: RTX.capability)
    with pytest.raises(InputError, match="its kernel is in Triton, which cannot be used") as planned:
        plan_config(config())
    with pytest.raises(InputError) as refused:
        check_matmul("int8", str(tiny_llama_dir), "nf4", torch.device("cuda", 0), torch.bfloat16)
    assert str(refused.value) == str(planned.value)
    plan_config(config("fp8"))  # whose product is PyTorch's own
    plan_config(config(gpu_memory="8GiB"))  # another machine's card


def test_a_card_that_is_named_is_judged_by_the_capability_that_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "found_cards", lambda: [T4])
    cases: list[tuple[dict[str, Any], bool]] = [
        ({}, True),
        ({"gpu_capability": "8.6"}, False),  # what is said counts before what is found
        ({"gpu_memory": "8GiB"}, False),  # not known: the plan says what it takes
        ({"gpu_memory": "8GiB", "gpu_capability": "7.5"}, True),
        ({"gpu_memory": "8GiB", "gpu_capability": "8.6"}, False),
        ({"table": True, "data": "PredictDataModule"}, False),
        ({"table": True, "gpu_capability": "7.0"}, True),
    ]
    for options, refused in cases:
        if refused:
            with pytest.raises(InputError, match=r"int8, but .* has compute capability 7\."):
                command.print_plan(config(**options))
            continue
        command.print_plan(config(**options))
        printed = capsys.readouterr().out
        assert "in int8, which takes a card of compute capability 8.0 or more" in printed
        assert ("--gpu_capability says which yours has" in printed) == (options == {"gpu_memory": "8GiB"})
    monkeypatch.chdir(ROOT)
    assert plan(monkeypatch, *CPT, "--gpu_capability", "Ampere") == 2
    assert "wanted a compute capability, for example --gpu_capability 8.9" in capsys.readouterr().err


def test_a_card_without_bfloat16_is_planned_in_float16_as_a_run_computes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(command, "found_cards", lambda: [T4])
    gemma = {"model": {"lora": {"r": 8}, "base": "google/gemma-3-12b-it"}, "data": "CPTDataModule"}
    usual, asked = plan_config(gemma), plan_config(gemma | {"trainer": {"precision": "16-mixed"}})
    assert (usual.memory, usual.host_memory) == (asked.memory, asked.host_memory)
    assert usual.memory != plan_config(gemma | {"trainer": {"precision": "bf16-mixed"}}).memory
    assert "7.5 has no bfloat16, so all is counted in 16-mixed." in render(usual)


@pytest.mark.parametrize(
    ("devices", "ranks"), [(None, 3), ("auto", 3), (-1, 3), (2, 2), ([2], 1), ("0,2", 2), ("1", 1)]
)
def test_as_many_ranks_are_planned_as_a_run_has_with_the_smallest_of_their_cards(
    monkeypatch: pytest.MonkeyPatch, devices: Any, ranks: int
) -> None:
    here = [Card("first", 24 * GIB), Card("second", 12 * GIB), Card("third", 16 * GIB)]
    monkeypatch.setattr(command, "found_cards", lambda: here)
    found = plan_config(config("bf16", trainer={"devices": devices}))
    assert found.schedule is not None and found.card is not None
    assert found.schedule.step_tokens == ranks * 4 * 2048
    wanted = {3: "second", 1: "third" if devices == [2] else "first"}
    assert found.card.name == wanted.get(ranks, "second" if devices == 2 else "third")
    two = plan_config(config("bf16", trainer={"devices": devices, "num_nodes": 2}))
    assert two.schedule is not None and two.schedule.step_tokens == 2 * found.schedule.step_tokens
    assert two.host_memory == found.host_memory  # of one machine
    named = plan_config(config("bf16", trainer={"devices": devices}, gpu_memory="24GiB"))
    assert named.card is not None and named.card.memory_bytes == 24 * GIB


def test_ranks_that_no_machine_here_has_are_said_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "found_cards", lambda: [RTX])
    four = config("bf16", trainer={"devices": 4})
    assert "wants 4 cards, and 1 can be seen here" in render(plan_config(four))
    assert "can be seen here" not in render(plan_config(config("bf16")))
    monkeypatch.setattr(command, "installed_bytes", lambda: 64 * GIB)
    monkeypatch.setattr("taigi_lightning.planning.option_checks.sys.platform", "win32")
    with pytest.raises(InputError, match=r"num_nodes is 4, and PyTorch for Windows"):
        plan_config(four)
    assert plan_config(four | {"gpu_memory": "24GiB"}).schedule  # of another machine


@pytest.mark.parametrize("other", [{"gpu_memory": "8GiB"}, {"json": True}])
def test_a_table_of_many_cards_is_not_asked_of_one_nor_for_scripts(other: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="--table does not go with --"):
        command.print_plan(config("bf16", table=True, **other))


def test_memory_that_others_hold_is_not_planned_with(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = Card("a card", 24 * GIB, taken_bytes=6 * GIB)
    monkeypatch.setattr(command, "found_cards", lambda: [taken])
    found, free = (
        plan_config(config("bf16", **more)) for more in ({}, {"gpu_memory": "18GiB", "host_memory": "64GiB"})
    )
    assert (found.memory, found.spare_bytes) == (free.memory, free.spare_bytes)
    assert "a card (24.0 GiB, 6.0 of them taken now)" in render(found)


@pytest.mark.parametrize(
    ("model", "trainer", "said"),
    [
        ({}, {"precision": "bf16-true"}, "trainer.precision is bf16-true, which would store the adapter"),
        ({}, {"devices": 0}, "trainer.devices is 0: no device"),
        ({}, {"precision": "64-true"}, "trainer.precision is 64-true, and the base is computed in 32 bits"),
        ({"from_scratch": True}, {}, "Random weights cannot train in 4 bits"),
        ({"from_scratch": True, "quantization": "none"}, {}, "An adapter on random weights means nothing"),
    ],
)
def test_options_that_a_run_refuses_are_not_planned(model: dict[str, Any], trainer: Any, said: str) -> None:
    asked = {"model": {"lora": {"r": 8}, **model}, "trainer": trainer, "gpu_memory": "24GiB"}
    with pytest.raises(InputError, match=said):
        plan_config(asked | {"data": "CPTDataModule"})


@pytest.mark.parametrize("precision", ["32-true", "32"])
def test_32_bits_are_counted_as_32(precision: str) -> None:
    held = []
    for name in ("bf16-mixed", precision):
        found = plan_config(config("bf16", trainer={"precision": name}, gpu_memory="141GiB"))
        held.append({part.purpose: part.bytes for part in found.memory})
    assert held[1]["weights, the rest"] == 2 * held[0]["weights, the rest"]
    assert held[1]["weights, projections"] == held[0]["weights, projections"]  # 4 bits are 4 bits
    assert held[1]["activations kept"] > 1.5 * held[0]["activations kept"]
    assert found.memory_total_bytes <= 141 * GIB


def test_a_cpu_is_planned_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32 and in its own memory, every layer keeping all, whatever card is there; but a card that is named."""
    monkeypatch.setattr(command, "found_cards", lambda: [RTX])
    cpu = config("bf16", trainer={"accelerator": "cpu"})
    found, named = (plan_config(cpu | more) for more in ({}, {"gpu_memory": "24GiB"}))
    assert named == plan_config(config("bf16", gpu_memory="24GiB")) and named.fits
    parts = {part.purpose: part for part in found.memory}
    assert (found.card, found.fits, found.accelerator) == (None, None, "cpu")
    assert "CUDA itself" not in parts and "32 bits" in parts["weights, the rest"].note
    assert found.decisions.layers_kept == found.decisions.layers and not found.host_memory
    text = render(found)
    assert "In host memory, at the peak (GiB)" in text and "no card is needed" in text
    assert "--gpu_memory" not in text


def test_an_adapter_that_is_more_than_lora_is_planned_on_the_path_that_it_takes(tmp_path: Path) -> None:
    saved = {"r": 8, "use_dora": True, "target_modules": ["q_proj"]}
    (tmp_path / "adapter_config.json").write_text(json.dumps(saved), encoding="utf-8")
    model = {"adapter": str(tmp_path), "lora": {"r": 8}}
    found = plan_config({"model": model, "data": "CPTDataModule", "gpu_memory": "24GiB"})
    assert found.decisions.path == "general"
    assert "use_dora makes the adapter" in str(found.decisions.path_reason)
    with pytest.raises(InputError, match=r"model.matmul is int8, but .*use_dora makes the adapter"):
        plan_config({"model": model | {"matmul": "int8"}, "data": "CPTDataModule"})
