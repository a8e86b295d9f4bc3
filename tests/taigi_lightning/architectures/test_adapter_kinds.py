"""Saved adapters of every kind that PEFT makes: trained on and merged correctly, or refused before the base loads."""

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from taigi_lightning.errors import InputError
from taigi_lightning.evaluation.model_setup import build_model, take_fast_path
from taigi_lightning.model.adapters import LoraSettings, attach_adapter
from taigi_lightning.training.callbacks import ExportModel
from taigi_lightning.training.module import CausalLMModule
from tests.taigi_lightning.architectures.small_bases import save_base, small_model
from tests.taigi_lightning.architectures.small_configs import small_config
from tests.taigi_lightning.architectures.walk import (
    CPU,
    apart,
    check_answers,
    check_merge,
    our_gradients,
    own_gradients,
)

ATTENTION = ["q_proj", "v_proj"]
TRAINED: dict[str, LoraConfig] = {
    "plain": LoraConfig(r=4, target_modules=ATTENTION),
    "rank-stabilised": LoraConfig(r=4, use_rslora=True, target_modules=ATTENTION),
    "some layers": LoraConfig(r=4, layers_to_transform=[1], target_modules=ATTENTION),
    "a pattern of names": LoraConfig(r=4, target_modules=r".*\.(self_attn\.q_proj|mlp\.up_proj)"),
    "all linear": LoraConfig(r=4, target_modules="all-linear"),
    "ranks by name": LoraConfig(
        r=4, rank_pattern={"q_proj": 2}, alpha_pattern={"v_proj": 3}, target_modules=ATTENTION
    ),
    "excluded": LoraConfig(r=4, target_modules=[*ATTENTION, "o_proj"], exclude_modules=["o_proj"]),
    "gaussian": LoraConfig(r=4, init_lora_weights="gaussian", target_modules=ATTENTION),
}
# What can train, but not be merged.
UNMERGED: dict[str, tuple[LoraConfig, str]] = {
    "DoRA": (LoraConfig(r=4, use_dora=True, target_modules=ATTENTION), "use_dora"),
    "biases of LoRA": (LoraConfig(r=4, lora_bias=True, target_modules=ATTENTION), "lora_bias"),
    "an embedding": (LoraConfig(r=4, target_modules=[*ATTENTION, "embed_tokens"]), "wanted pairs named"),
    "a whole layer": (LoraConfig(r=4, modules_to_save=["norm"], target_modules=ATTENTION), "modules_to_save"),
    "an activation": (LoraConfig(r=4, bias="all", target_modules=ATTENTION), "bias"),
}
OTHER_KINDS: dict[str, Any] = {
    "IA3": peft.IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
    "LOHA": peft.LoHaConfig(r=4, target_modules=ATTENTION),
    "LOKR": peft.LoKrConfig(r=4, target_modules=ATTENTION),
    "VERA": peft.VeraConfig(r=4, target_modules=["q_proj"]),
    "OFT": peft.OFTConfig(r=4, oft_block_size=0, target_modules=ATTENTION),
    "BOFT": peft.BOFTConfig(boft_block_size=4, target_modules=["q_proj"]),
    "PROMPT_TUNING": peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
    "PREFIX_TUNING": peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Llama, tied, with biases in its attention."""
    config = small_config("llama", tie_word_embeddings=True, attention_bias=True)
    return save_base(config, tmp_path_factory.mktemp("base"))


def saved(config: Any, folder: Path) -> str:
    """An adapter of a kind, random, on a model like the base."""
    model = get_peft_model(
        small_model(small_config("llama", tie_word_embeddings=True, attention_bias=True)), config
    )
    torch.manual_seed(2)
    for name, parameter in model.named_parameters():
        if "lora_B" in name or "lora_embedding_B" in name:
            nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    return str(folder)


def check_export(base: Path, adapter: str, merge: bool = True) -> None:
    """What `fit` asks before it loads the base."""
    module = CausalLMModule(base=str(base), adapter=adapter, quantization="none")
    ExportModel(merge=merge).setup(None, module, "fit")  # type: ignore[arg-type]


def built(base: Path, adapter: str) -> Any:
    options: dict[str, Any] = {"lora": None, "quantization": "none", "from_scratch": False, "training": True}
    return build_model(str(base), adapter=adapter, compute_dtype=torch.float32, device=CPU, **options)


def check_gradients(model: Any) -> None:
    wanted = own_gradients(model)
    options: dict[str, Any] = {"compile": False, "activation_budget": 0.0, "compute_dtype": torch.float32}
    take_fast_path(model, device=CPU, training=True, answers=True, **options)
    assert apart(our_gradients(model, packed=True), wanted) <= 1e-5


@pytest.mark.parametrize("kind", TRAINED)
def test_plain_lora_goes_on_training_and_merges(kind: str, base: Path, tmp_path: Path) -> None:
    adapter = saved(TRAINED[kind], tmp_path / "adapter")
    check_export(base, adapter)
    model = built(base, adapter)
    check_gradients(model)
    check_answers(model)
    check_merge(model, base, tmp_path / "merged", type(model.get_base_model()))


@pytest.mark.parametrize("kind", UNMERGED)
def test_what_cannot_be_merged_is_refused_first_and_trains_without_merging(
    kind: str, base: Path, tmp_path: Path
) -> None:
    config, words = UNMERGED[kind]
    adapter = saved(config, tmp_path)
    with pytest.raises(InputError, match=words):
        check_export(base, adapter)
    check_export(base, adapter, merge=False)
    model = built(base, adapter)
    check_gradients(model)
    check_answers(model)


def test_tokens_that_train_in_a_tied_embedding_answer_and_merge(base: Path, tmp_path: Path) -> None:
    """Their gradients are held against PEFT's in test_token_rows.py."""
    config = LoraConfig(r=4, trainable_token_indices=[5, 6], target_modules=ATTENTION)
    adapter = saved(config, tmp_path / "adapter")
    check_export(base, adapter)
    model = built(base, adapter)
    take_fast_path(
        model,
        device=CPU,
        training=True,
        answers=True,
        compile=False,
        activation_budget=0.0,
        compute_dtype=torch.float32,
    )
    check_answers(model)
    check_merge(model, base, tmp_path / "merged", type(model.get_base_model()))


@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_other_kinds_are_refused_before_anything_loads(kind: str, base: Path, tmp_path: Path) -> None:
    adapter = saved(OTHER_KINDS[kind], tmp_path)
    with pytest.raises(InputError, match=f"of PEFT's kind {kind}; only LoRA"):
        CausalLMModule(base=str(base), adapter=adapter)


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("lm_head", "would not train"),
        ("embed_tokens", "an Embedding, not a linear projection"),
        ("mlp", "not a linear projection"),
        ("q_prj", "called q_prj"),
    ],
)
def test_targets_that_could_not_be_merged_are_refused(target: str, words: str, base: Path) -> None:
    with pytest.raises(InputError, match=words):
        attach_adapter(small_model(small_config("llama")), LoraSettings(target_modules=["q_proj", target]))
