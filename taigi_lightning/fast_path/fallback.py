"""4-bit projections with LoRA, one by one, for architectures whose layers are not written out."""

from types import ModuleType
from typing import Any

import bitsandbytes as bnb
import torch
from torch import Tensor

from taigi_lightning.fast_path.lora_linear import refusal
from taigi_lightning.fast_path.nf4_linear import ProjectionGroup
from taigi_lightning.kernels.elementwise import Dropout


class _Projection(torch.autograd.Function):
    """One projection with its LoRA."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, group: ProjectionGroup, dropout: Dropout, ops: ModuleType, *_: Tensor
    ) -> Tensor:
        rows = x.reshape(-1, group.in_features)
        inputs = group.buffer(rows)
        with torch.autocast(x.device.type, enabled=False):
            ops.copy_project(rows, inputs[:, : group.in_features], *group.sides(inputs), dropout)
            y, hidden = group.multiply(inputs)
        ctx.save_for_backward(x, hidden)
        ctx.group, ctx.dropout, ctx.ops = group, dropout, ops
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        (x, hidden), group, dropout = ctx.saved_tensors, ctx.group, ctx.dropout
        rows, flat = x.reshape(-1, group.in_features), grad.reshape(-1, group.out_features)
        direct, side, hidden_grad = group.backward(flat, bool(dropout))
        grad_x, grad_a = ctx.ops.drop_backward_project(direct, side, hidden_grad, rows, dropout)
        found = group.gradients(flat, hidden, grad_a)
        wanted = [g.to(p.dtype) for g, p in zip(found, group.parameters(), strict=True)]
        return (grad_x.view(x.shape), None, None, None, *wanted)


def is_joinable(module: Any) -> bool:
    """Whether a module is a 4-bit Linear with plain LoRA."""
    if not hasattr(module, "lora_A") or refusal(module) is not None:
        return False
    return isinstance(module.get_base_layer().weight, bnb.nn.Params4bit)


def draw_dropout(group: ProjectionGroup, training: bool) -> Dropout:
    """Dropout for one pass, drawn on the host, whose state checkpointing restores before it recomputes."""
    return Dropout(group.dropout if training else 0.0, int(torch.randint(2**31 - 1, ())))


def speed_up(module: Any, ops: ModuleType, fused: bool) -> bool:
    """Let a 4-bit Linear with LoRA train through `_Projection`, in place; False if it is anything else.

    Without gradients, or once its adapter is merged, switched off or joined by another, PEFT's own forward runs.
    """
    if not is_joinable(module):
        return False
    group, plain = ProjectionGroup([module], fused), module.forward

    def forward(x: Tensor, *args: Any, **options: Any) -> Tensor:
        if args or options or not torch.is_grad_enabled() or refusal(module) is not None:
            return plain(x, *args, **options)  # type: ignore[no-any-return]
        # The kernels of the backward pass take rows that lie one behind the other.
        x, dropout = x.contiguous(), draw_dropout(group, module.training)
        y: Tensor = _Projection.apply(x, group, dropout, ops, *group.parameters())  # type: ignore[no-untyped-call]
        return y.view(*x.shape[:-1], -1)  # out here, where the model may change it in place

    module.forward = forward
    return True
