"""The fast path computes what PEFT over transformers computes, whatever the base, the adapter and the packing."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    GemmaConfig,
    GemmaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    StableLmConfig,
    StableLmForCausalLM,
)

from taigi_lightning.errors import InputError
from taigi_lightning.fast_path.apply import apply_fast_path, causal_lm, forward_hidden, unsupported
from taigi_lightning.fast_path.cross_entropy import linear_cross_entropy_sum
from taigi_lightning.planning.activation_plan import (
    EVERYTHING,
    INPUT_ONLY,
    RESIDUAL,
)
from taigi_lightning.planning.memory import PROJECTIONS
from tests.taigi_lightning.fast_path.small_decoders import (
    PACKED,
    SIZES,
    TOKENS,
    gradients,
    llama,
    loss_of,
    nf4_llama,
    with_lora,
    worst,
)


@pytest.mark.parametrize("saving", [EVERYTHING, INPUT_ONLY, RESIDUAL])
def test_gradients_equal_pefts_over_a_4_bit_base(nf4_folder: Path, saving: Any) -> None:
    model = with_lora(nf4_llama(nf4_folder))
    wanted = gradients(model)
    apply_fast_path(model)
    causal_lm(model).fast_decoder.plans[(2, 12)] = [saving] * 2
    assert len(wanted) == 28
    assert worst(gradients(model), wanted) < 1e-5


@pytest.mark.parametrize(
    "r, targets", [(3, PROJECTIONS), (8, ["q_proj", "v_proj", "down_proj"]), (4, ["o_proj"])]
)
def test_odd_ranks_and_unadapted_projections_work_too(r: int, targets: list[str]) -> None:
    model = with_lora(llama(), targets=targets, r=r)
    wanted = gradients(model)
    assert unsupported(model) is None
    assert worst(gradients(apply_fast_path(model)), wanted) < 1e-5


def test_qwen_with_its_biases_is_llama_shaped() -> None:
    torch.manual_seed(0)
    base = Qwen2ForCausalLM(Qwen2Config(**SIZES)).requires_grad_(False)
    for name, parameter in base.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, std=0.1)
    model = with_lora(base)
    wanted = gradients(model)
    apply_fast_path(model)
    assert hasattr(causal_lm(model), "fast_decoder")
    assert worst(gradients(model), wanted) < 1e-5


def test_other_architectures_keep_transformers_own_pass() -> None:
    torch.manual_seed(0)
    model = with_lora(StableLmForCausalLM(StableLmConfig(**SIZES)).requires_grad_(False))
    wanted = gradients(model)
    apply_fast_path(model, activation_budget=0.0)
    assert "StableLmForCausalLM" in causal_lm(model).slow_path_reason
    assert worst(gradients(model), wanted) < 1e-5


@pytest.fixture
def stablelm(tmp_path: Path) -> Path:
    """A base whose layers are not written out."""
    torch.manual_seed(0)
    StableLmForCausalLM(StableLmConfig(**SIZES)).save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_their_4_bit_projections_take_the_joined_product(stablelm: Path, dropout: float) -> None:
    model = with_lora(nf4_llama(stablelm, StableLmForCausalLM), dropout=dropout)
    wanted = gradients(model)
    apply_fast_path(model, activation_budget=0.0)
    torch.manual_seed(7)
    recomputed = gradients(model)
    causal_lm(model).gradient_checkpointing_disable()
    torch.manual_seed(7)
    assert worst(recomputed, gradients(model)) < 1e-6
    assert (worst(recomputed, wanted) < 1e-5) == (dropout == 0.0)


def test_their_dropout_is_that_of_the_config(stablelm: Path) -> None:
    """An update is computed from inputs of which the configured share is left out, the others scaled by the rest."""
    model = apply_fast_path(
        with_lora(nf4_llama(stablelm, StableLmForCausalLM), dropout=0.5), activation_budget=0.0
    )
    projection = causal_lm(model).model.layers[0].mlp.up_proj
    x = torch.ones(4000, 64)
    base = projection.get_base_layer()(x)
    update = projection.lora_B["default"](projection.lora_A["default"](x)) * projection.scaling["default"]
    drawn = projection(x) - base
    spread = drawn.std(dim=0)
    assert (spread > 0).all()
    torch.testing.assert_close(drawn.mean(dim=0), update[0], atol=float(5 * spread.max() / 4000**0.5), rtol=0)
    model.eval()
    torch.testing.assert_close(projection(x) - base, update, atol=1e-4, rtol=1e-4)


def test_their_copies_would_compute_with_the_originals_weights(stablelm: Path) -> None:
    model = apply_fast_path(with_lora(nf4_llama(stablelm, StableLmForCausalLM)))
    with pytest.raises(InputError, match=r"cannot be copied: .* Copy it before apply_fast_path"):
        copy.deepcopy(model)


@pytest.mark.parametrize("fast", [True, False])
def test_a_packed_documents_loss_is_its_loss_alone(fast: bool) -> None:
    model = with_lora(llama())
    if fast:
        apply_fast_path(model)
    together = TOKENS[:1].clone()
    labels = together.clone()
    labels[0, [0, 5]] = -100  # a document's first token is predicted from nothing
    weight = model.get_output_embeddings().weight
    packed = linear_cross_entropy_sum(forward_hidden(model, together, PACKED[:1]), weight, labels)
    alone = sum(
        loss_of(model, together[:, part], torch.arange(part.stop - part.start)[None])
        for part in (slice(0, 5), slice(5, 12))
    )
    torch.testing.assert_close(packed, alone, rtol=1e-6, atol=1e-5)


def test_dropout_is_drawn_anew_each_time_and_stops_in_eval() -> None:
    model = apply_fast_path(with_lora(llama(), dropout=0.2))
    with torch.no_grad():
        first, second = (forward_hidden(model, TOKENS, PACKED) for _ in range(2))
        clean, again = (forward_hidden(model.eval(), TOKENS, PACKED) for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(clean, again)


def test_bfloat16_is_as_near_to_float32_as_pefts_own_pass() -> None:
    exact = gradients(with_lora(llama()))
    errors = []
    for fast in (False, True):
        model = with_lora(llama().to(torch.bfloat16))
        if fast:
            apply_fast_path(model)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            errors.append(worst(gradients(model), exact))
    assert errors[1] < 1.3 * errors[0]


def test_names_saved_adapter_and_generation_are_pefts(tmp_path: Path) -> None:
    model = with_lora(llama())
    names = list(model.state_dict())
    prompt = {"input_ids": TOKENS[:, :5], "attention_mask": torch.ones(2, 5, dtype=torch.long)}
    wanted = model.eval().generate(**prompt, max_new_tokens=4, do_sample=False)
    apply_fast_path(model)
    gradients(model.train())
    assert list(model.state_dict()) == names
    assert torch.equal(model.eval().generate(**prompt, max_new_tokens=4, do_sample=False), wanted)
    model.save_pretrained(tmp_path)
    assert (tmp_path / "adapter_model.safetensors").is_file()


def test_switched_off_adapters_are_left_out() -> None:
    model = apply_fast_path(with_lora(llama())).eval()
    with torch.no_grad():
        with model.disable_adapter():
            off = forward_hidden(model, TOKENS, PACKED)
        torch.testing.assert_close(off, forward_hidden(llama(), TOKENS, PACKED))
        assert not torch.allclose(off, forward_hidden(model, TOKENS, PACKED))


def test_a_head_of_its_own_is_none_that_its_config_calls_tied() -> None:
    model = with_lora(llama())
    causal_lm(
        model
    ).config.tie_word_embeddings = True  # as of files that hold both, which transformers keeps apart
    tables = causal_lm(apply_fast_path(model)).fast_decoder.tables
    assert not tables.tied


def test_the_activation_is_the_one_that_the_class_reads() -> None:
    torch.manual_seed(0)
    config = GemmaConfig(**SIZES, head_dim=16, hidden_act="silu", hidden_activation="gelu_pytorch_tanh")
    model = with_lora(GemmaForCausalLM(config).requires_grad_(False))
    wanted = gradients(model)
    assert unsupported(model) is None
    assert worst(gradients(apply_fast_path(model)), wanted) < 1e-5
