"""A gated MLP of 4-bit projections is computed as one operation where its module is one, and left alone otherwise."""

from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from transformers import AutoConfig, AutoModelForCausalLM

from taigi_lightning.fast_path.apply import apply_fast_path
from taigi_lightning.fast_path.gated_mlp import GatedMlp, join_mlp
from taigi_lightning.kernels import elementwise
from tests.taigi_lightning.fast_path.small_decoders import (
    SIZES,
    behind,
    gradients,
    nf4_llama,
    with_lora,
    worst,
)

FUSED, APART = ["gate_up_proj", "down_proj"], ["gate_proj", "up_proj", "down_proj"]


class Mlp(nn.Module):
    """Llama's, by other names, in another order."""

    def __init__(self) -> None:
        super().__init__()
        linear = {"compute_dtype": torch.float32, "quant_type": "nf4", "bias": False}
        self.w2 = bnb.nn.Linear4bit(128, 64, **linear)
        self.w3, self.w1 = (bnb.nn.Linear4bit(64, 128, **linear) for _ in range(2))
        self.act, self.dropout = nn.SiLU(), nn.Dropout(0.2)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(self.act(self.w1(x)) * self.w3(x))  # type: ignore[no-any-return]


class Clamped(Mlp):
    def forward(self, x: Tensor) -> Tensor:
        return self.w2(self.act(self.w1(x)) * self.w3(x).clamp(max=7.0))  # type: ignore[no-any-return]


class Dropping(Mlp):
    def forward(self, x: Tensor) -> Tensor:
        return self.w2(self.dropout(self.act(self.w1(x)) * self.w3(x)))  # type: ignore[no-any-return]


class Scaled(Mlp):
    def forward(self, x: Tensor) -> Tensor:
        return self.w2(self.act(self.w1(x)) * self.w3(x)) * 0.5  # type: ignore[no-any-return]


class Twice(Mlp):
    def forward(self, x: Tensor) -> Tensor:
        return self.w2(self.act(self.w1(x)) * self.w3(x + 1e-3))  # type: ignore[no-any-return]


class Exact(Mlp):
    def forward(self, x: Tensor) -> Tensor:
        return self.w2(nn.functional.gelu(self.w1(x)) * self.w3(x))  # type: ignore[no-any-return]


class Reading(Mlp):
    def forward(self, x: Tensor) -> Tensor:
        return self.w2(self.act(self.w1(x)) * self.w3(x)) + self.w2.weight.shape[5]  # type: ignore[no-any-return]


def adapted(kind: type[Mlp]) -> Any:
    torch.manual_seed(0)
    holder = nn.ModuleDict({"mlp": kind()}).to("cpu").requires_grad_(False)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["w1", "w2", "w3"], init_lora_weights=False)
    return inject_adapter_in_model(config, holder).mlp


def passed(module: Any, x: Tensor) -> list[Tensor]:
    x = x.detach().requires_grad_()
    y = module(x)
    trained = [p for p in module.parameters() if p.requires_grad]
    return [y.detach(), *torch.autograd.grad(y, [x, *trained], torch.ones_like(y))]


def test_an_mlp_is_found_whatever_its_projections_are_called() -> None:
    module, x = adapted(Mlp), torch.randn(2, 3, 64, 2)[..., 0]
    wanted = passed(module, x)
    assert join_mlp(module, elementwise, False)
    for found, other in zip(passed(module, x), wanted, strict=True):
        torch.testing.assert_close(found, other, rtol=1e-4, atol=1e-4)
    kept: list[tuple[int, ...]] = []

    def note(tensor: Tensor) -> Tensor:
        kept.append(tuple(tensor.shape))
        return tensor

    with saved_tensors_hooks(note, lambda tensor: tensor):
        y = module(x.requires_grad_())
    assert kept == [(6, 64), (6, 256), (6, 8), (6, 8)]  # x, gate and up, LoRA's hidden activations
    y.add_(1)  # as a model may
    assert module(x[:, :0]).shape == (2, 0, 64)


@pytest.mark.parametrize("kind", [Clamped, Dropping, Scaled, Twice, Exact, Reading])
def test_what_computes_anything_else_is_left_alone(kind: Any) -> None:
    module = adapted(kind).eval()
    assert not join_mlp(module, elementwise, False)
    assert "forward" not in vars(module) and not any("forward" in vars(m) for m in module.children())
    assert not module.training and not module.w1.training


@pytest.mark.parametrize(
    ("kind", "changes", "targets", "joined"),
    [
        ("glm4", {"head_dim": 16}, FUSED, 2),
        ("stablelm", {}, APART, 2),
        ("gemma2", {"head_dim": 16, "attn_implementation": "eager"}, [*APART, "q_proj"], 2),
        ("stablelm", {}, ["gate_proj", "down_proj"], 0),
        ("stablelm", {"hidden_act": "gelu"}, APART, 0),
        (
            "falcon_h1",
            {"mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 16,
             "mlp_multipliers": [2.0, 0.5]},
            APART, 0,
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_gradients_of_whole_models_stay_the_same(
    kind: str, changes: Any, targets: list[str], joined: int, dropout: float, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **{**SIZES, **changes})
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(tmp_path)
    model = with_lora(nf4_llama(tmp_path, AutoModelForCausalLM), dropout=dropout, targets=targets)
    wanted = gradients(model)
    apply_fast_path(model, activation_budget=0.0)
    assert sum(len(behind(module, GatedMlp)) for module in model.modules()) == joined
    torch.manual_seed(7)
    recomputed = gradients(model)
    assert (worst(recomputed, wanted) < 1e-5) == (dropout == 0.0)
    apply_fast_path(model, activation_budget=1.0)
    torch.manual_seed(7)
    assert worst(gradients(model), recomputed) < 1e-6
