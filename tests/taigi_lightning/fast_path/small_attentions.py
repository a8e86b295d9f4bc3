"""Attentions that call q, k and v in other ways, and as much of a model around them as is asked."""

from __future__ import annotations

from typing import Any

import bitsandbytes as bnb
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn

from taigi_lightning.fast_path.fallback import speed_up
from taigi_lightning.fast_path.shared_inputs import join_siblings
from taigi_lightning.kernels import elementwise


class Attention(nn.Module):
    """Three projections of one tensor."""

    def __init__(self) -> None:
        super().__init__()
        linear = {"compute_dtype": torch.float32, "quant_type": "nf4"}
        self.q, self.k, self.v = (bnb.nn.Linear4bit(64, n, bias=n == 64, **linear) for n in (64, 32, 32))
        self.skip = self.fail = False

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q = self.q(x)
        if self.fail:
            raise ValueError("as a model may")
        return q, self.k(x), q[..., :32].detach() if self.skip else self.v(x)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.project(x)
        k.mul_(1.5)  # as a model may
        return q * torch.cat([k, v], -1).cos()


class Concatenated(Attention):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat(self.project(x), -1)


class Cross(Attention):
    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        other = x.flip(1)
        return self.q(x), self.k(other), self.v(other)


class Copied(Attention):
    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.q(x), self.k(x.clone()), self.v(x[:])


class Changed(Attention):
    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = x * 1.0
        q = self.q(x).detach()
        x.mul_(2.0)
        return q, self.k(x), self.v(x)


class Twice(Attention):
    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.q(x) + self.q(x), self.k(x), self.v(x)


class Last(Attention):
    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        v, k = self.v(x), self.k(x)
        return self.q(x), k, v


class Decoder(nn.Module):
    def __init__(self, kind: type[Attention], calls: int) -> None:
        super().__init__()
        self.embed, self.attention, self.calls = nn.Embedding(97, 64), kind(), calls

    def forward(self, input_ids: Tensor, use_cache: bool) -> tuple[Tensor]:
        x = self.embed(input_ids)
        for _ in range(self.calls):
            x = self.attention(x)
        return (x,)


class Base(nn.Module):
    """As much of a causal language model as is asked."""

    def __init__(self, kind: type[Attention], calls: int) -> None:
        super().__init__()
        self.decoder, self.head = Decoder(kind, calls), nn.Linear(64, 97)

    def get_decoder(self) -> nn.Module:
        return self.decoder

    def get_input_embeddings(self) -> nn.Module:
        return self.decoder.embed

    def get_output_embeddings(self) -> nn.Module:
        return self.head


def adapted(kind: type[Attention] = Attention, calls: int = 1, dropout: float = 0.0) -> Any:
    torch.manual_seed(0)
    base = Base(kind, calls).to("cpu").requires_grad_(False)
    config = LoraConfig(
        r=4, lora_alpha=8, lora_dropout=dropout, target_modules=["q", "k", "v"], init_lora_weights=False
    )
    for module in base.modules():
        vars(module)["support_avx512bf16_for_cpu"] = False  # as every model is loaded
    return inject_adapter_in_model(config, base).train()


def joined(kind: type[Attention] = Attention, **options: Any) -> Any:
    """Its attention after `join_siblings`."""
    base = adapted(kind, **options)
    for module in base.modules():
        speed_up(module, elementwise, False)
    join_siblings(base, [base.decoder.attention], elementwise, False)
    return base.decoder.attention


X = torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(3))


def passed(module: Any, run: Any = None) -> list[Tensor | None]:
    """Results, and the gradients of x and of every LoRA matrix, None where there is none."""
    x = X.clone().requires_grad_()
    y = module(x) if run is None else run(module, x)
    trained = [p for p in module.parameters() if p.requires_grad]
    return [y.detach(), *torch.autograd.grad(y.sin().sum(), [x, *trained], allow_unused=True)]


def same(found: list[Tensor | None], wanted: list[Tensor | None]) -> None:
    for one, other in zip(found, wanted, strict=True):
        if one is None or other is None:
            assert one is other
        else:
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
