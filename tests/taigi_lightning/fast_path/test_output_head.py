"""The output layer as the model has it: scale, cap and bias, found by asking, in the loss and in single logits."""

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from taigi_lightning.errors import InputError
from taigi_lightning.fast_path.cross_entropy import linear_cross_entropy_sum
from taigi_lightning.fast_path.output_head import OutputHead, output_head
from tests.taigi_lightning.architectures.small_bases import small_model
from tests.taigi_lightning.architectures.small_configs import small_config


@pytest.mark.parametrize(
    ("name", "changes", "scale", "cap"),
    [
        ("llama", {}, 1.0, None),
        ("gemma2", {"final_logit_softcapping": 3.0}, 1.0, 3.0),
        ("cohere", {"logit_scale": 0.0625}, 0.0625, None),
        ("granite", {"logits_scaling": 8.0}, 0.125, None),
        ("phi", {}, 1.0, None),
    ],
)
def test_loss_and_logits_are_the_models_own(name: str, changes: Any, scale: float, cap: float | None) -> None:
    model: Any = small_model(small_config(name, **changes))
    head = output_head(model)
    assert (head.scale, head.cap) == (pytest.approx(scale), cap)
    assert (head.bias is not None) == (name == "phi")
    ids = torch.randint(4, 1280, (2, 30), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        hidden, logits = model.get_decoder()(ids).last_hidden_state, model(ids).logits
    torch.testing.assert_close(torch.cat(head.logits(hidden[0]), dim=-1), logits[0], rtol=1e-5, atol=1e-5)
    wanted = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="sum"
    )
    torch.testing.assert_close(linear_cross_entropy_sum(hidden, head, ids), wanted, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("cap", [None, 2.0])
@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_gradients_of_hidden_weight_and_bias_are_autograds(scale: float, cap: float | None) -> None:
    torch.manual_seed(0)
    hidden, weight, bias = torch.randn(2, 5, 8), torch.randn(11, 8), torch.randn(11)
    leaves = [t.requires_grad_() for t in (hidden, weight, bias)]
    labels = torch.randint(0, 11, (2, 5))
    found = torch.autograd.grad(
        linear_cross_entropy_sum(hidden, OutputHead(weight, bias, scale, cap), labels), leaves
    )
    logits = scale * (hidden @ weight.T + bias)
    logits = logits if cap is None else cap * torch.tanh(logits / cap)
    loss = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="sum"
    )
    for ours, wanted in zip(found, torch.autograd.grad(loss, leaves), strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-5)


def test_a_head_that_is_no_linear_layer_is_refused() -> None:
    model: Any = small_model(small_config("llama"))
    model.lm_head = torch.nn.Sequential(torch.nn.Linear(64, 1280))
    with pytest.raises(InputError, match="is Sequential"):
        output_head(model)


def test_an_output_layer_that_an_adapter_brings_is_refused_as_such() -> None:
    lora = LoraConfig(target_modules=["q_proj"], modules_to_save=["lm_head"])
    with pytest.raises(InputError, match=r"brings an output layer of its own .* merge_and_unload"):
        output_head(get_peft_model(small_model(small_config("llama")), lora))
