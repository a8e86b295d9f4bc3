"""Projections that read the same tensor are computed together, and nothing of one pass reaches another."""

from __future__ import annotations

import contextlib
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig, AutoModelForCausalLM

from taigi_lightning.fast_path import shared_inputs
from taigi_lightning.fast_path.apply import apply_fast_path, causal_lm, checkpointed_layers
from taigi_lightning.fast_path.fallback import speed_up
from taigi_lightning.fast_path.shared_inputs import join_siblings
from taigi_lightning.kernels import elementwise
from tests.taigi_lightning.fast_path.small_attentions import (
    Attention,
    Changed,
    Concatenated,
    Copied,
    Cross,
    Last,
    Twice,
    X,
    adapted,
    joined,
    passed,
    same,
)
from tests.taigi_lightning.fast_path.small_decoders import (
    SIZES,
    behind,
    gradients,
    nf4_llama,
    with_lora,
    worst,
)
from tests.taigi_lightning.fast_path.small_general import ATTENTION, HANDED_ON, kept_by_each

# ---- whole models ---------------------------------------------------------------------------------

QKV = [["q_proj", "k_proj", "v_proj"]]
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
MODELS: dict[str, tuple[dict[str, Any], list[str], list[list[str]]]] = {
    "stablelm": ({"use_qkv_bias": True}, ATTENTION, QKV),
    "qwen2_moe": ({**EXPERTS, "shared_expert_intermediate_size": 64}, ATTENTION, QKV),
    "gemma2": ({"head_dim": 16, "attn_implementation": "eager"}, ["q_proj", "v_proj"], [["q_proj", "v_proj"]]),
    "phi": ({"num_key_value_heads": 4}, ["q_proj", "k_proj", "v_proj", "dense"], QKV),
    "falcon": ({"alibi": False}, ["query_key_value", "dense"], []),
    "glm4": ({"head_dim": 16}, ["q_proj", "o_proj"], []),
    "falcon_h1": (
        {"mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 16, "mamba_chunk_size": 8,
         "mlp_multipliers": [2.0, 0.5]},
        [*ATTENTION, "in_proj", "gate_proj", "up_proj"],
        [*QKV, ["up_proj", "gate_proj"]],
    ),
}  # fmt: skip


def groups_of(holder: Any) -> list[list[str]]:
    """Names of the projections in a module that are computed together."""
    names = {module: name.rpartition(".")[2] for name, module in holder.named_modules()}
    found = {id(one): one for module in holder.modules() for one in behind(module, shared_inputs._Siblings)}
    return sorted([names[member] for member in siblings.members] for siblings in found.values())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """A random base of one kind."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(request.param, **{**SIZES, **MODELS[request.param][0]})
    folder = tmp_path_factory.mktemp(request.param)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("folder", "kind"), [(kind, kind) for kind in MODELS], indirect=["folder"])
def test_gradients_of_whole_models_stay_the_same(folder: Path, kind: str) -> None:
    _, targets, groups = MODELS[kind]
    model = with_lora(nf4_llama(folder, AutoModelForCausalLM), targets=targets)
    wanted = gradients(model)
    apply_fast_path(model, activation_budget=0.5)
    decoder = causal_lm(model).get_decoder()
    assert groups_of((getattr(decoder, "layers", None) or decoder.h)[0]) == groups
    for _ in range(2):  # while it measures, and after
        assert worst(gradients(model), wanted) < 1e-5
    layers: Any = checkpointed_layers(model)
    assert layers.measured[0].layers == pytest.approx(kept_by_each(model), abs=HANDED_ON)
    for module in model.modules():
        if hasattr(module, "lora_dropout"):
            module.lora_dropout["default"] = nn.Dropout(0.3)
    apply_fast_path(model, activation_budget=1.0)
    torch.manual_seed(7)
    kept = gradients(model)
    assert worst(kept, wanted) > 1e-3
    for budget in (0.0, 0.5):
        apply_fast_path(model, activation_budget=budget)
        torch.manual_seed(7)
        assert worst(gradients(model), kept) < 1e-6


# ---- one module -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "calls", "groups"),
    [
        (Attention, 1, [["q", "k", "v"]]),
        (Attention, 2, [["q", "k", "v"]]),
        (Last, 1, [["v", "k", "q"]]),
        (Cross, 1, [["k", "v"]]),
        (Changed, 1, [["k", "v"]]),
        (Twice, 1, [["k", "v"]]),
        (Copied, 1, []),
    ],
)
def test_siblings_are_those_that_read_one_tensor(kind: Any, calls: int, groups: list[list[str]]) -> None:
    wanted = passed(adapted(kind).decoder.attention)
    module = joined(kind, calls=calls)
    assert groups_of(module) == groups
    assert module.training
    same(passed(module), wanted)


@pytest.mark.parametrize("later", [Last, Cross, Changed, Twice, Copied])
def test_what_is_called_otherwise_later_on_is_as_right(later: Any) -> None:
    wanted = passed(adapted(later).decoder.attention)
    module = joined()
    module.__class__ = later
    same(passed(module), wanted)
    module.__class__ = Attention
    same(passed(module), passed(adapted().decoder.attention))


def test_a_result_that_nobody_asks_for_teaches_nothing() -> None:
    module, apart = joined(), adapted().decoder.attention
    module.skip = apart.skip = True
    wanted = passed(apart)
    assert wanted[-2:] == [None, None]
    same(passed(module), wanted)


def test_siblings_drop_the_same_elements_and_others_in_every_pass() -> None:
    module, drawn = joined(Concatenated, dropout=0.5), []
    module.load_state_dict(
        {name: torch.ones_like(t) for name, t in module.state_dict().items() if "lora" in name}, strict=False
    )
    plain = module.eval()(X)
    module.train()
    for _ in range(2):
        update = module(X) - plain
        torch.testing.assert_close(update, update[..., :1].expand_as(update), rtol=1e-4, atol=1e-3)
        drawn.append(update[..., 0])
    assert not torch.allclose(drawn[0], drawn[1], atol=0.1)
    assert abs(float(torch.stack(drawn).mean())) < 40  # of updates of 16 times a sum of 64


@pytest.mark.parametrize(("reentrant", "dropout"), [(True, 0.0), (False, 0.0), (False, 0.5)])
def test_a_checkpointed_pass_is_computed_again_as_it_was(reentrant: bool, dropout: float) -> None:
    module = joined(dropout=dropout)
    torch.manual_seed(1)
    wanted = passed(module)
    torch.manual_seed(1)
    x, trained = X.clone().requires_grad_(), [p for p in module.parameters() if p.requires_grad]
    y = checkpoint(module, x, use_reentrant=reentrant)
    y.sin().sum().backward()
    same([y.detach(), x.grad, *(p.grad for p in trained)], wanted)


def test_without_gradients_a_pass_is_pefts_own() -> None:
    found = []
    for module in joined(dropout=0.5), adapted(dropout=0.5).decoder.attention:
        torch.manual_seed(1)
        with torch.no_grad():
            found.append(module(X))
    torch.testing.assert_close(*found)


def test_an_adapter_that_is_switched_off_stays_off() -> None:
    module, apart = joined(), adapted().decoder.attention
    for changed in module, apart:
        changed.k.enable_adapters(False)
    same(passed(module), passed(apart))
    module.k.enable_adapters(True)
    same(passed(module), passed(adapted().decoder.attention))


def test_one_that_evaluates_beside_others_that_train_has_no_dropout() -> None:
    module, apart = joined(Concatenated, dropout=0.5), adapted(Concatenated).decoder.attention
    module.v.eval()
    found, wanted = module(X), apart(X)
    torch.testing.assert_close(found[..., -32:], wanted[..., -32:])
    assert not torch.allclose(found[..., :-32], wanted[..., :-32], atol=1e-2)


def kept_alive(module: Any) -> bool:
    """Whether a pass leaves its input, or what was made of it, alive."""
    x = (X * 1.0).requires_grad_()
    alive = [weakref.ref(x)]
    handles = [
        child.register_forward_hook(lambda _, given, y: alive.append(weakref.ref(y)))
        for child in module.children()
    ]
    try:
        with contextlib.suppress(ValueError):
            module(x)
    finally:
        for handle in handles:
            handle.remove()
    del x
    assert len(alive) > 1
    return any(ref() is not None for ref in alive)


def test_nothing_outlives_a_pass() -> None:
    module = joined()
    assert not kept_alive(module)
    module.skip = True
    assert not kept_alive(module)
    module.fail = True
    assert not kept_alive(module)
    module.skip = module.fail = False
    same(passed(module), passed(adapted().decoder.attention))


def test_a_model_is_asked_without_a_trace() -> None:
    base = adapted()
    for module in base.modules():
        speed_up(module, elementwise, False)
    for module in base.modules():
        vars(module)["support_avx512bf16_for_cpu"] = True
    weights = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    torch.manual_seed(0)
    drawn = torch.rand(1)
    torch.manual_seed(0)
    join_siblings(base, [base.decoder.attention], elementwise, False)
    assert torch.equal(torch.rand(1), drawn)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in base.state_dict().items())
    assert "forward" not in vars(base.decoder.attention.q.get_base_layer())
    assert not base.decoder.attention.q._forward_pre_hooks


def test_models_that_want_more_than_tokens_are_left_alone() -> None:
    base = adapted()
    base.decoder.embed = nn.Embedding(3, 64)
    for module in base.modules():
        speed_up(module, elementwise, False)
    join_siblings(base, [base.decoder.attention], elementwise, False)
    assert groups_of(base) == []
    assert "forward" not in vars(base.decoder.attention.q.get_base_layer())
