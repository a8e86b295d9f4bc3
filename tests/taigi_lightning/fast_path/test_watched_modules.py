"""Whatever a user changes of a model, before `apply_fast_path` or after it, is what is computed with."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from transformers import AutoConfig, AutoModelForCausalLM

from taigi_lightning.errors import InputError
from taigi_lightning.fast_path.apply import apply_fast_path, causal_lm, fast_decoder, forward_hidden
from taigi_lightning.fast_path.output_head import output_head
from tests.taigi_lightning.fast_path.small_decoders import (
    PACKED,
    SIZES,
    TOKENS,
    llama,
    loss_of,
    nf4_llama,
    with_lora,
)


def halve(_module: Any, _inputs: Any, output: Any) -> Any:
    return (output[0] / 2, *output[1:]) if isinstance(output, tuple) else output / 2


def double(_module: Any, grads: Any, _outputs: Any) -> Any:
    return tuple(None if grad is None else 2 * grad for grad in grads)


def other_forward(module: Any) -> None:
    plain = module.forward
    module.forward = lambda *inputs: plain(*inputs) / 2


def q_of(layer: Any) -> Any:
    return layer.self_attn.q_proj


def new_linear(wanted: Any, like: Any, bias: bool = False) -> nn.Linear:
    torch.manual_seed(3)
    return nn.Linear(like.in_features, like.out_features, bias=bias).requires_grad_(wanted)


# What is done to the last layer, by what it is.
CHANGES: dict[str, Any] = {
    "a hook on a layer": lambda layer: layer.register_forward_hook(halve),
    "a hook before a layer": lambda layer: layer.register_forward_pre_hook(
        lambda _, inputs: (inputs[0] / 2, *inputs[1:])
    ),
    "a hook on the MLP": lambda layer: layer.mlp.register_forward_hook(halve),
    "a hook on a projection": lambda layer: layer.mlp.up_proj.register_forward_hook(halve),
    "a hook on a frozen weight": lambda layer: q_of(layer).base_layer.register_forward_hook(halve),
    "a hook on A": lambda layer: q_of(layer).lora_A["default"].register_forward_hook(halve),
    "a hook on the activation": lambda layer: layer.mlp.act_fn.register_forward_hook(halve),
    "a hook on a norm": lambda layer: layer.input_layernorm.register_forward_hook(halve),
    "a hook on gradients": lambda layer: layer.mlp.register_full_backward_hook(double),
    "a hook on all modules": lambda _: torch_module.register_module_forward_hook(
        lambda module, _, output: output / 2 if isinstance(module, nn.SiLU) else None
    ),
    "a forward pass of its own": lambda layer: other_forward(layer.mlp),
    "a projection's own forward pass": lambda layer: other_forward(layer.mlp.down_proj),
    "another projection": lambda layer: setattr(layer.self_attn, "q_proj", new_linear(True, q_of(layer), True)),
    "another frozen weight": lambda layer: setattr(q_of(layer), "base_layer", new_linear(False, q_of(layer))),
    "another activation": lambda layer: setattr(layer.mlp, "act_fn", nn.ReLU()),
    "no norm": lambda layer: setattr(layer, "input_layernorm", nn.Identity()),
    "another scale of scores": lambda layer: setattr(layer.self_attn, "scaling", 0.9),
    "a norm that trains": lambda layer: layer.input_layernorm.requires_grad_(True),
    "a bias that trains": lambda layer: setattr(
        layer.self_attn.o_proj.base_layer, "bias", nn.Parameter(torch.ones(64))
    ),
    "A and B that are more than a matrix": lambda layer: q_of(layer).lora_B.update(
        {"default": nn.Sequential(q_of(layer).lora_B["default"], nn.Tanh())}
    ),
    "dropout switched off": lambda layer: [m.eval() for m in layer.modules() if isinstance(m, nn.Dropout)],
}  # fmt: skip


def computed(model: Any) -> list[Tensor]:
    """The loss, and the gradient of everything that trains."""
    torch.manual_seed(7)
    loss = loss_of(model)
    trained = [p for p in model.parameters() if p.requires_grad]
    return [
        loss.detach(),
        *(g for g in torch.autograd.grad(loss, trained, allow_unused=True) if g is not None),
    ]


@pytest.fixture(scope="module", params=["llama", "stablelm", "granite"])
def plain(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Any:
    """A 4-bit model whose layers are written out, and two whose own layers train part by part."""
    torch.manual_seed(0)
    folder: Path = tmp_path_factory.mktemp(request.param)
    config = AutoConfig.for_model(request.param, **SIZES)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    return with_lora(nf4_llama(folder, AutoModelForCausalLM))


def with_dropout_in_the_last_layer(model: Any, change: str) -> Any:
    """Dropout, where it is what is changed: drawn otherwise here than by PEFT, it is compared once switched off."""
    copied = copy.deepcopy(model)
    if "dropout" in change:
        for module in causal_lm(copied).get_decoder().layers[-1].modules():
            if hasattr(module, "lora_dropout"):
                module.lora_dropout["default"] = nn.Dropout(0.4)
    return copied


@pytest.mark.filterwarnings("ignore:The fast path stands aside")
@pytest.mark.parametrize("name", CHANGES)
def test_what_is_changed_is_what_is_computed_with(plain: Any, name: str) -> None:
    found = []
    for when in ("never", "before", "after"):
        model = with_dropout_in_the_last_layer(plain, name)
        if when == "after":
            computed(apply_fast_path(model))
        done = CHANGES[name](causal_lm(model).get_decoder().layers[-1])
        if when == "before":
            apply_fast_path(model)
        try:
            found.append(computed(causal_lm(model)))
        finally:
            if "all modules" in name:
                done.remove()
    for one in found[1:]:
        torch.testing.assert_close(one, found[0], rtol=1e-4, atol=1e-5)


def test_a_change_is_said_once_and_can_be_taken_back() -> None:
    model = apply_fast_path(with_lora(llama()))
    decoder = fast_decoder(model)
    assert decoder is not None
    hook = causal_lm(model).get_decoder().layers[1].mlp.register_forward_hook(halve)
    with pytest.warns(
        UserWarning, match=r"aside, because the hooks of model\.layers\.1\.mlp are others"
    ) as said:
        loss_of(model), loss_of(model)
    assert len([one for one in said if "stands aside" in str(one.message)]) == 1
    assert fast_decoder(model) is None
    hook.remove()
    assert fast_decoder(model) is decoder


@pytest.mark.filterwarnings("ignore:The fast path stands aside")
@pytest.mark.parametrize(("budget", "passes"), [(0.0, 2), (1.0, 1)])
def test_layers_that_compute_instead_keep_to_the_budget(budget: float, passes: int) -> None:
    """What is not kept is computed again in the backward pass."""
    model = apply_fast_path(with_lora(llama()), activation_budget=budget).train()
    seen: list[Any] = []
    hook = causal_lm(model).get_decoder().layers[1].self_attn.register_forward_hook(lambda *_: seen.append(1))
    loss_of(model).backward()
    assert len(seen) == passes
    hook.remove()
    assert fast_decoder(model) is not None
    loss_of(model).backward()
    assert len(seen) == passes


def test_what_transformers_leaves_on_layers_changes_nothing(plain: Any) -> None:
    model = apply_fast_path(copy.deepcopy(plain))
    decoder = fast_decoder(model)
    assert len(model(TOKENS, output_hidden_states=True).hidden_states) == 3
    assert fast_decoder(model) is decoder


def test_other_embeddings_and_hooks_on_them_stay_fast(plain: Any) -> None:
    wanted: Any = None
    for fast in (False, True):
        model = apply_fast_path(copy.deepcopy(plain)) if fast else copy.deepcopy(plain)
        causal_lm(model).get_decoder().embed_tokens.register_forward_hook(halve)
        hidden = forward_hidden(model, TOKENS, PACKED)
        wanted = hidden if wanted is None else wanted
        torch.testing.assert_close(hidden, wanted, rtol=1e-4, atol=1e-5)
    assert (fast_decoder(model) is None) == (getattr(causal_lm(model), "fast_decoder", None) is None)


@pytest.mark.parametrize("where", ["get_output_embeddings", "get_base_model", "train"])
def test_a_hook_that_nothing_would_call_is_refused(plain: Any, where: str) -> None:
    model = apply_fast_path(copy.deepcopy(plain))
    getattr(model, where)().register_forward_hook(halve)
    with pytest.raises(InputError, match=r"A hook on .* would not be called"):
        output_head(model)


def test_another_scale_of_logits_is_found_and_another_output_layer_refused(plain: Any) -> None:
    model = apply_fast_path(copy.deepcopy(plain))
    base, before = causal_lm(model), output_head(model).scale
    whole = base.forward

    def doubled(*inputs: Any, **options: Any) -> Any:
        output = whole(*inputs, **options)
        output.logits = output.logits * 2
        return output

    base.forward = doubled
    assert output_head(model).scale == pytest.approx(2 * before)
    other_forward(base.get_output_embeddings())
    with pytest.raises(InputError, match="something else of its input than the product with its weight"):
        output_head(model)


def test_weights_that_change_before_the_backward_pass_are_refused(plain: Any) -> None:
    model = apply_fast_path(copy.deepcopy(plain))
    loss = loss_of(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_A" in name:
                parameter.mul_(2)
    with pytest.raises(InputError, match="between a forward pass and its backward pass"):
        loss.backward()


def test_a_model_that_is_fast_cannot_be_copied() -> None:
    with pytest.raises(InputError, match="cannot be copied"):
        copy.deepcopy(apply_fast_path(with_lora(llama())))
