"""A written-out layer and the final norm as autograd sees them."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from taigi_lightning.fast_path.decoder_layer import DecoderLayer
from taigi_lightning.fast_path.layer_backward import backward
from taigi_lightning.fast_path.micro_batch import Step
from taigi_lightning.fast_path.watched_modules import expect_versions, versions
from taigi_lightning.kernels.elementwise import Dropout, Norm

# A layer's result is x + delta, or x + norm(delta), and whoever takes the two adds them before anything else, once:
# here and only here are they used. What goes back in both places is the gradient of the sum, one tensor, read, and
# overwritten, in one; the layer that made delta takes it on through the norm. Where nothing was added, the place of
# delta has none.


class _Layer(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, delta: Tensor | None, layer: DecoderLayer, step: Step, *parameters: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.layer, ctx.step, ctx.added = layer, step, delta is not None
        ctx.versions = versions(parameters)
        layer.enter(again=not step.savings)
        return layer.forward(x, delta, step)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Any, ...]:
        layer, step = ctx.layer, ctx.step
        expect_versions(layer.parameters(), ctx.versions)
        layer.enter(backward=True)
        grad_x, gradients = backward(layer, grad.contiguous(), step, ctx.needs_input_grad[0])
        wanted = [g.to(p.dtype) for g, p in zip(gradients, layer.parameters(), strict=True)]
        return (grad_x, _beside(grad_x, layer.dtype) if ctx.added else None, None, None, *wanted)


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, delta: Tensor, norm: Norm, post: Norm | None, ops: ModuleType) -> Tensor:
        out = torch.empty_like(delta)
        total, _ = ops.add_rms_norm(x, delta, norm, out, Dropout(0.0, 0), post)
        ctx.save_for_backward(total.detach())
        ctx.norm, ctx.ops, ctx.dtype = norm, ops, delta.dtype
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        (total,) = ctx.saved_tensors
        grad_x = ctx.ops.norm_gradient(grad.contiguous(), total, ctx.norm)
        return grad_x, _beside(grad_x, ctx.dtype), None, None, None


def _beside(grad: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """What goes back in the place of delta, where nobody reads it: the gradient itself, or nothing of delta's dtype."""
    if grad is None or grad.dtype == dtype:
        return grad
    return grad.new_zeros((), dtype=dtype).expand(grad.shape)


apply_layer: Callable[..., tuple[Tensor, Tensor]] = _Layer.apply
apply_norm: Callable[..., Tensor] = _Norm.apply
