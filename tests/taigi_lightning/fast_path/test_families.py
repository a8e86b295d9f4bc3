"""Each family's written-out layer computes what PEFT over transformers computes, packed, whatever is saved."""

from typing import Any

import pytest
import torch
import transformers as hf

from taigi_lightning.fast_path.apply import apply_fast_path, causal_lm, forward_hidden, unsupported
from taigi_lightning.fast_path.families import FAMILIES
from taigi_lightning.planning.activation_plan import (
    EVERYTHING,
    INPUT,
    INPUT_ONLY,
    MIDDLE,
    OUTPUT,
    RESIDUAL,
    Saving,
)
from taigi_lightning.planning.layer_mix import decide
from taigi_lightning.planning.memory import Shape
from tests.taigi_lightning.fast_path.late_host import LateHost
from tests.taigi_lightning.fast_path.small_decoders import (
    PACKED,
    SIZES,
    TOKENS,
    gradients,
    with_lora,
    worst,
)
from tests.taigi_lightning.fast_path.small_families import BASES, GEMMA3, family_base, lora_targets


def adapted(name: str, dropout: float = 0.0) -> Any:
    return with_lora(family_base(name), dropout, targets=lora_targets(name))


@pytest.mark.parametrize("name", BASES)
def test_gradients_equal_pefts_whatever_is_saved(name: str) -> None:
    model = adapted(name)
    wanted = gradients(model)
    assert unsupported(model) is None
    decoder = causal_lm(apply_fast_path(model)).fast_decoder
    assert worst(gradients(model), wanted) < 1e-5  # as decided: everything
    layers = len(decoder.layers)
    for saving in (EVERYTHING, INPUT_ONLY, RESIDUAL):
        decoder.plans[(2, 12)] = [saving] * layers
        assert worst(gradients(model), wanted) < 1e-5
    sizes = {"budget": 0.0, "headroom": 1e9, "host_headroom": 1e9, "element_size": 4}
    moved = decide(decoder.shape, 24, 4, **sizes).savings
    assert moved[0].host >= {INPUT, MIDDLE}
    decoder.stash, decoder.plans[(2, 12)] = LateHost(), moved
    assert worst(gradients(model), wanted) < 1e-5
    assert len(decoder.stash.prefetched) == (layers - 1) * len(moved[0].host)


def test_no_family_goes_untested() -> None:
    assert {type(make()).__name__ for make in BASES.values()} == FAMILIES.keys()


@pytest.mark.parametrize("name", [name for name in BASES if "vision" not in name])
def test_every_parameter_is_counted_from_the_config(name: str) -> None:
    base = family_base(name)
    shape = Shape.from_config(base.config.to_dict())
    assert shape.parameters == sum(p.numel() for p in base.parameters())
    family = FAMILIES[type(base).__name__]
    assert shape.post_norms == (family.after != (None, None))
    assert bool(shape.head_norm) == (family.head_norm != "none")
    assert shape.large == family.wide


@pytest.mark.parametrize("name", ["Mistral", "Gemma 3", "Qwen 3"])
def test_a_packed_document_is_as_it_is_alone(name: str) -> None:
    model = apply_fast_path(adapted(name))
    with torch.no_grad():
        together = forward_hidden(model, TOKENS[:1], PACKED[:1])
        alone = [
            forward_hidden(model, TOKENS[:1, part], torch.arange(part.stop - part.start)[None])
            for part in (slice(0, 5), slice(5, 12))
        ]
    torch.testing.assert_close(together, torch.cat(alone, 1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["Qwen 3", "Gemma 3", "OLMo 2"])
def test_recomputing_drops_what_the_forward_pass_dropped(name: str) -> None:
    model = apply_fast_path(adapted(name, dropout=0.3))
    decoder, found = causal_lm(model).fast_decoder, []
    for saving in (EVERYTHING, INPUT_ONLY, Saving(frozenset({INPUT, OUTPUT}))):
        decoder.plans[(2, 12)] = [saving] * len(decoder.layers)
        torch.manual_seed(7)
        found.append(gradients(model))
    assert worst(found[1], found[0]) < 1e-6
    assert worst(found[2], found[0]) < 1e-6


@pytest.mark.parametrize("name", ["Qwen 3", "Gemma 3"])
def test_bfloat16_is_as_near_to_float32_as_pefts_own_pass(name: str) -> None:
    exact, errors = gradients(adapted(name)), []
    for fast in (False, True):
        model = with_lora(family_base(name).to(torch.bfloat16))
        if fast:
            apply_fast_path(model)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            errors.append(worst(gradients(model), exact))
    assert errors[1] < 1.3 * errors[0]


def test_an_embedding_on_the_host_is_scaled_too() -> None:
    config = hf.Gemma3TextConfig(**GEMMA3, tie_word_embeddings=False)
    torch.manual_seed(0)
    model = with_lora(hf.Gemma3ForCausalLM(config).requires_grad_(False))
    wanted = gradients(model)
    apply_fast_path(model, embedding_on_host=True)
    assert worst(gradients(model), wanted) < 1e-5
    assert "forward" in causal_lm(model).get_input_embeddings().__dict__


@pytest.mark.parametrize(
    "change, said",
    [
        ({"attn_logit_softcapping": 50.0}, "caps attention"),
        ({"attention_dropout": 0.1}, "attention_dropout"),
        ({"hidden_activation": "gelu"}, "its activation is gelu"),
        ({"use_bidirectional_attention": True}, "looks ahead"),
    ],
)
def test_what_a_family_does_not_describe_keeps_transformers_own_pass(
    change: dict[str, Any], said: str
) -> None:
    model = with_lora(hf.Gemma3ForCausalLM(hf.Gemma3TextConfig(**GEMMA3 | change)).requires_grad_(False))
    assert said in str(unsupported(model))


def test_heads_rotated_in_part_keep_transformers_own_pass() -> None:
    rope = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
    base = hf.Phi3ForCausalLM(hf.Phi3Config(**SIZES, rope_parameters=rope)).requires_grad_(False)
    assert "rotates a part" in str(unsupported(with_lora(base, targets=lora_targets("Phi 3"))))
