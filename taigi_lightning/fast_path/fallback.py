"""4-bit projections with LoRA, for architectures whose layers are not written out."""

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import bitsandbytes as bnb
import torch
from torch import Tensor

from taigi_lightning.fast_path.lora_linear import refusal
from taigi_lightning.fast_path.nf4_linear import ProjectionGroup
from taigi_lightning.fast_path.watched_modules import WatchedModules, expect_versions, heard, versions
from taigi_lightning.kernels.elementwise import Dropout


class _Projections(torch.autograd.Function):
    """Projections of one input with their LoRA: for each of them y (M, N)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, group: ProjectionGroup, dropout: Dropout, ops: ModuleType, *parameters: Tensor
    ) -> tuple[Tensor, ...]:
        rows = x.reshape(-1, group.in_features)
        inputs = group.buffer(rows)
        with torch.autocast(x.device.type, enabled=False):
            ops.copy_project(rows, inputs[:, : group.in_features], *group.sides(inputs), dropout)
            results, hidden = group.multiply_apart(inputs)
        ctx.save_for_backward(x, hidden)
        ctx.group, ctx.dropout, ctx.ops, ctx.versions = group, dropout, ops, versions(parameters)
        ctx.set_materialize_grads(False)
        return tuple(results)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        (x, hidden), group, dropout = ctx.saved_tensors, ctx.group, ctx.dropout
        expect_versions(group.parameters(), ctx.versions)
        rows, grad = x.reshape(-1, group.in_features), _beside(grads, group, x)
        direct, side, hidden_grad = group.backward(grad, bool(dropout))
        grad_x, grad_a = ctx.ops.drop_backward_project(direct, side, hidden_grad, rows, dropout)
        found = group.gradients(grad, hidden, grad_a)
        # Nothing for LoRA whose result nobody used: of zeros the optimizer would make a step.
        used = [grad is not None for grad, m in zip(grads, group.members, strict=True) for _ in m.lora or ()]
        parameters = zip(found, group.parameters(), used, strict=True)
        return (
            grad_x.view(x.shape),
            None,
            None,
            None,
            *(g.to(p.dtype) if u else None for g, p, u in parameters),
        )


def _beside(grads: Sequence[Tensor | None], group: ProjectionGroup, like: Tensor) -> Tensor:
    """Gradients of each member's y, (M, N) in all; zeros where a result was not used."""
    if len(grads) == 1 and grads[0] is not None:
        return grads[0]
    rows = like.numel() // group.in_features
    pairs = zip(grads, group.members, strict=True)
    parts = [like.new_zeros(rows, member.out_features) if grad is None else grad for grad, member in pairs]
    return torch.cat(parts, dim=1)


def is_joinable(module: Any) -> bool:
    """Whether a module is a 4-bit Linear with plain LoRA, and no hook is on what is in it."""
    if not hasattr(module, "lora_A") or refusal(module) is not None:
        return False
    inside = {name: part for name, part in module.named_modules() if part is not module}
    if heard(inside) or (vars(module).get("forward") and heard({"projection": module})):
        return False
    return isinstance(module.get_base_layer().weight, bnb.nn.Params4bit)


def draw_dropout(group: ProjectionGroup, training: bool) -> Dropout:
    """Dropout for one pass, drawn on the host, whose state checkpointing restores before it recomputes."""
    return Dropout(group.dropout if training else 0.0, int(torch.randint(2**31 - 1, ())))


def project(group: ProjectionGroup, x: Tensor, training: bool, ops: ModuleType) -> list[Tensor]:
    """Of each of a group's projections what it makes of x (..., K): (..., N)."""
    # The kernels of the backward pass take rows that lie one behind the other.
    x, dropout = x.contiguous(), draw_dropout(group, training)
    results = _Projections.apply(x, group, dropout, ops, *group.parameters())  # type: ignore[no-untyped-call]
    # Out here, where the model may change them in place.
    return [y.view(*x.shape[:-1], y.shape[-1]) for y in results]


def speed_up(module: Any, ops: ModuleType, fused: bool) -> bool:
    """Let a 4-bit Linear with LoRA train through `_Projections`, in place; False if it is anything else.

    Without gradients, or once its adapter is merged, switched off, changed or joined by another, PEFT's own forward
    runs.
    """
    if not is_joinable(module):
        return False
    group, plain = ProjectionGroup([module], fused), module.forward
    watched = WatchedModules("projection", module, inside=True)

    def forward(x: Tensor, *args: Any, **options: Any) -> Tensor:
        own = args or options or not torch.is_grad_enabled()
        if own or not group.members[0].unchanged() or watched.change(module.training) is not None:
            return plain(x, *args, **options)  # type: ignore[no-any-return]
        return project(group, x, module.training, ops)[0]

    module.forward = forward
    return True
