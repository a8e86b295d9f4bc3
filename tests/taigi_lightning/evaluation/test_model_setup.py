"""Where a base's packed weights go as they are loaded, and that a run does not mind."""

import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelPruning
from torch import Tensor

from taigi_lightning.data.cpt import CPTDataModule
from taigi_lightning.errors import InputError
from taigi_lightning.evaluation import model_setup
from taigi_lightning.evaluation.model_setup import (
    build_model,
    check_matmul,
    starts_on_host,
    take_fast_path,
    tokens_at_once,
)
from taigi_lightning.evaluation.self_check import Findings
from taigi_lightning.fast_path.apply import causal_lm
from taigi_lightning.kernels.host_memory import held_in_place
from taigi_lightning.model.adapters import LoraSettings
from taigi_lightning.planning.placement import WeightsOnHost
from taigi_lightning.training import stage_model
from taigi_lightning.training.module import CausalLMModule
from tests.taigi_lightning.architectures.small_configs import small_config

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


@pytest.mark.parametrize(
    ("free", "training", "waits"), [(1, True, True), (80, True, False), (1, False, True), (80, False, False)]
)
def test_auto_loads_to_the_host_what_a_card_might_not_hold(
    tiny_llama_dir: Path, monkeypatch: pytest.MonkeyPatch, free: int, training: bool, waits: bool
) -> None:
    monkeypatch.setattr(model_setup, "allowed_bytes", lambda device: (free * 2**16, free * 2**16))
    monkeypatch.setattr(model_setup, "prefill_bytes", lambda *_: 0)
    found = starts_on_host(str(tiny_llama_dir), "auto", 4, device=CUDA, tokens=64, training=training)
    assert found == waits


@pytest.mark.parametrize(
    ("option", "waits"), [("all", True), (1, True), ("none", False), (0, False), ("auto", False)]
)
def test_the_option_counts_wherever_the_layers_compute(
    tiny_llama_dir: Path, option: object, waits: bool
) -> None:
    assert starts_on_host(str(tiny_llama_dir), option, 4, device=CPU, tokens=64, training=True) == waits  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("option", "card", "refused"),
    [("all", 80, True), ("auto", 1, True), ("auto", 6, False), ("none", 1, False)],
)
def test_a_host_that_does_not_hold_the_weights_is_told_before_they_load(
    tiny_llama_dir: Path, monkeypatch: pytest.MonkeyPatch, option: WeightsOnHost, card: int, refused: bool
) -> None:
    monkeypatch.setattr(model_setup, "available_bytes", lambda: 1000)
    monkeypatch.setattr(model_setup, "allowed_bytes", lambda device: (card * 2**16, card * 2**16))
    if not refused:
        assert not starts_on_host(str(tiny_llama_dir), option, 4, device=CUDA, tokens=512, training=True)
        return
    with pytest.raises(InputError, match=r"would wait in host memory, 0\.0 GiB where 0\.0 are available\."):
        starts_on_host(str(tiny_llama_dir), option, 4, device=CUDA, tokens=512, training=True)


def test_the_largest_micro_batch_or_row_is_what_a_card_needs_room_for() -> None:
    assert tokens_at_once(SimpleNamespace(batch_size=4, max_length=512)) == 2048
    assert tokens_at_once(SimpleNamespace(batch_tokens=16384, max_length=2048)) == 16384
    assert tokens_at_once(None) == 2048


@pytest.mark.parametrize(
    ("quantization", "said"), [("none", "no weights are in 4 bits"), ("nf4", "this is a CPU")]
)
def test_fp8_is_refused_before_anything_is_loaded(home: Path, quantization: str, said: str) -> None:
    module = CausalLMModule("models/base", lora=LoraSettings(r=4), quantization=quantization, matmul="fp8")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=rf"model.matmul is fp8, but .*{said}.*Set --model.matmul bf16."):
        module.configure_model()
    assert module.model is None


@pytest.mark.parametrize(
    ("options", "settings", "said"),
    [
        ({"matmul": "int8"}, {}, "model.matmul is int8, but this is a CPU"),
        ({}, {"precision": "bf16-true"}, "trainer.precision is bf16-true"),
        ({}, {"callbacks": [ModelPruning("l1_unstructured")]}, "ModelPruning prunes"),
    ],
)
def test_a_trainer_in_python_is_refused_before_its_data_are_prepared(
    home: Path, options: dict[str, Any], settings: dict[str, Any], said: str
) -> None:
    class Costly(CPTDataModule):
        def prepare_data(self) -> None:
            raise AssertionError("it has begun to read")

    module = CausalLMModule("models/base", lora=LoraSettings(r=4), **options)
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, max_steps=1, **settings)
    with pytest.raises(InputError, match=said):
        trainer.fit(module, Costly("data/cpt_corpus", "models/base"))


def test_fp8_is_refused_for_layers_that_are_not_written_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))
    config = {"architectures": ["StableLmForCausalLM"], "model_type": "stablelm", "vocab_size": 64}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(
        InputError, match=r"matmul is fp8_backward, but.*own code: StableLmForCausalLM is not one"
    ):
        check_matmul("fp8_backward", str(tmp_path), "nf4", CUDA, torch.bfloat16)
    check_matmul("bf16", str(tmp_path), "nf4", CPU, torch.float32)


@pytest.mark.parametrize("beyond", ["use_dora", "lora_bias"])
def test_8_bits_are_refused_beside_more_than_plain_lora_before_weights_load(
    tiny_llama_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beyond: str
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))
    for name, wanted in ((beyond, True), ("use_rslora", False)):
        (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 4, name: True}), encoding="utf-8")
        check = partial(check_matmul, "fp8", str(tiny_llama_dir), "nf4", CUDA, torch.bfloat16, str(tmp_path))
        if wanted:
            with pytest.raises(InputError, match=rf"{beyond} makes the adapter .* more than plain LoRA"):
                check()
        else:
            check()


def train(home: Path, weights_on_host: object) -> tuple[CausalLMModule, dict[str, Tensor]]:
    """Two optimizer steps of CPT on a 4-bit base."""
    pl.seed_everything(1, verbose=False)
    module = CausalLMModule(
        "models/base",
        lora=LoraSettings(r=4, lora_dropout=0.1),
        weights_on_host=weights_on_host,  # type: ignore[arg-type]
    )
    data = CPTDataModule("data/cpt_corpus", "models/base", batch_size=2, max_length=64, validation_split=None)
    trainer = pl.Trainer(
        max_steps=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=home,
    )  # fmt: skip
    trainer.fit(module, data)
    return module, {name: value.clone() for name, value in module.state_dict().items()}


def test_a_run_with_weights_on_the_host_trains_to_the_same_bits(home: Path) -> None:
    _, wanted = train(home, "none")
    module, found = train(home, "all")
    decoder = causal_lm(module.model).fast_decoder
    assert all(held_in_place(m.base) for layer in decoder.layers for m in layer.members())
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_layers_that_are_not_written_out_are_refused_by_name(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taigi_lightning.fast_path.apply.unsupported", lambda model: "a reason")
    with pytest.raises(InputError, match=r"a reason.*weights_on_host none"):
        train(home, "all")


@pytest.mark.parametrize("option", ["all", 3])
def test_weights_in_16_bits_do_not_wait_and_nobody_is_left_to_believe_so(
    tiny_llama_dir: Path, option: WeightsOnHost
) -> None:
    with pytest.raises(InputError, match=r"quantization none no weights are in 4 bits.*weights_on_host none"):
        build_model(
            str(tiny_llama_dir), lora=LoraSettings(r=4), adapter=None, quantization="none", from_scratch=False,
            compute_dtype=torch.float32, device=CPU, training=True, weights_on_host=option,
        )  # fmt: skip


def test_weights_that_nothing_would_bring_are_refused_before_they_load(tmp_path: Path) -> None:
    small_config("gpt2").save_pretrained(tmp_path)  # its settings alone
    with pytest.raises(InputError, match=r"transformers' own code: GPT2LMHeadModel .*weights_on_host none"):
        build_model(
            str(tmp_path), lora=LoraSettings(r=4), adapter=None, quantization="nf4", from_scratch=False,
            compute_dtype=torch.float32, device=CPU, training=True, weights_on_host="all",
        )  # fmt: skip


def test_the_check_makes_its_questions_where_a_run_does_whatever_lightning_sets(tiny_llama_dir: Path) -> None:
    model = build_model(
        str(tiny_llama_dir), lora=LoraSettings(r=4), adapter=None, quantization="none", from_scratch=False,
        compute_dtype=torch.float32, device=CPU, training=True,
    )  # fmt: skip
    with torch.device("meta"):  # as Lightning sets a card's in configure_model
        findings = take_fast_path(
            model, device=CPU, training=True, compile=None, activation_budget="auto",
            compute_dtype=torch.float32, answers=True,
        )  # fmt: skip
    assert findings == Findings()


@pytest.mark.parametrize(
    ("matmul", "strategy", "training", "said"),
    [
        ("int8", "generate", False, "generated through transformers' own layers"),
        ("int8_backward", "generate", False, "generated through transformers' own layers"),
        ("int8_backward", "choice", False, "int8_backward is for gradients, and none are computed here"),
        ("int8", "choice", False, None),
        ("int8_backward", "choice", True, None),
        ("bf16", "generate", False, None),
    ],
)
def test_8_bits_that_no_product_would_be_in_are_said(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    matmul: Any, strategy: Any, training: bool, said: str | None,
) -> None:  # fmt: skip
    monkeypatch.setattr(stage_model, "check_matmul", lambda *_: None)  # a CPU would be refused
    lora = LoraSettings(r=4)
    module = CausalLMModule(
        "models/base", lora=lora, matmul=matmul, answer_strategy=strategy, weights_on_host="all"
    )
    stage_model.make_model(module, CPU, torch.float32, training=training)
    printed = capsys.readouterr().out
    assert ("in 16 bits" in printed) == (said is not None) and (said or "") in printed
