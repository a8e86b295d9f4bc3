"""Which bases a plan counts on the fast path, and what it promises of those that are not on it."""

import json
from pathlib import Path
from typing import Any

import pytest
import transformers
from transformers import LlamaConfig, MistralConfig, Phi3Config, Qwen2Config, StableLmConfig

from taigi_lightning.errors import InputError
from taigi_lightning.fast_path.families import FAMILIES
from taigi_lightning.planning.base_shape import read_base
from taigi_lightning.planning.decoder_path import FAST_TYPES, off_fast_path
from tests.taigi_lightning.planning.small_plans import BIG, planned, saved_base


def test_a_llama_base_takes_the_fast_path_and_fills_the_card(tmp_path: Path) -> None:
    found = planned(saved_base(tmp_path, LlamaConfig(**BIG)))
    assert (found.decisions.path, found.decisions.path_reason) == ("fast", None)
    assert found.decisions.layers_kept == found.decisions.layers_dequantised == 32
    assert any(part.purpose == "weights, dequantised" for part in found.memory)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (StableLmConfig(**BIG), "its type stablelm is not one of"),
        (Phi3Config(**BIG, partial_rotary_factor=0.75), "it rotates a part of each head"),
        (LlamaConfig(**BIG, hidden_act="gelu"), "its activation is gelu"),
    ],
)
def test_a_base_off_the_fast_path_is_promised_nothing_of_it(config: Any, reason: str, tmp_path: Path) -> None:
    base = saved_base(tmp_path, config)
    least, most = planned(base, budget=0.0), planned(base, budget=1.0)
    assert least.decisions.path == "general"
    assert reason in str(least.decisions.path_reason)
    for found in (least, most):
        assert found.decisions.layers_dequantised == 0
        assert not found.host_memory
        assert not any(part.purpose == "weights, dequantised" for part in found.memory)
        assert "not on the fast path" in " ".join(found.notes)
    assert least.memory_total_bytes < most.memory_total_bytes
    prediction = planned(base, data={"class_path": "PredictDataModule"})
    assert prediction.decisions.layers_dequantised == 0
    assert "no layer is dequantised" in " ".join(prediction.notes)


def test_a_budget_of_one_is_what_a_general_base_gives_up_first(tmp_path: Path) -> None:
    base = saved_base(tmp_path, StableLmConfig(**BIG))
    assert planned(base, budget=1.0, gpu_memory="16GiB").advice[0] == "--model.activation_budget 0"
    tight = planned(base, gpu_memory="6GiB").advice
    assert tight
    assert not any("activation_budget" in flag for flag in tight)


def test_plan_and_training_step_agree_on_the_families_of_the_fast_path() -> None:
    described = {getattr(transformers, name).config_class.model_type for name in FAMILIES}
    assert described == set(FAST_TYPES)


@pytest.mark.parametrize("kind", [Qwen2Config, MistralConfig, Phi3Config])
def test_a_familys_config_on_disk_says_what_the_loaded_one_says(kind: Any, tmp_path: Path) -> None:
    assert read_base(saved_base(tmp_path, kind(**BIG)))[1] is off_fast_path(kind(**BIG).to_dict()) is None


@pytest.mark.parametrize(
    "base, large", [("google/gemma-3-12b-it", True), ("meta-llama/Llama-2-7b-hf", False)]
)
def test_a_large_residual_stream_is_counted_in_float32_where_a_card_has_no_bfloat16(
    base: str, large: bool
) -> None:
    plans = [planned(base, trainer={"precision": name}, budget=1.0) for name in ("bf16-mixed", "16-mixed")]
    assert (plans[1].memory_total_bytes > plans[0].memory_total_bytes) == large


def test_a_mixture_of_experts_is_refused(tmp_path: Path) -> None:
    config = LlamaConfig(**BIG).to_dict() | {"model_type": "qwen3_moe", "num_experts": 128}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"num_experts 128: a mixture of experts.*max_steps 1 shows what"):
        read_base(str(tmp_path))
