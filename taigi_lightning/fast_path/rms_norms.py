"""RMS norms of transformers' own layers as one operation, which keeps its input alone for the backward pass.

Transformers computes one in about ten passes over float32 copies, two of which autograd keeps. What a module of that
name computes is taken from no list: it is compared with our operation first, and left alone if it differs.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from taigi_lightning.fast_path.watched_modules import WatchedModules
from taigi_lightning.kernels import elementwise
from taigi_lightning.kernels.elementwise import Dropout, Norm

NAME = "RMSNorm"  # how the names of transformers' classes end, and torch's own
WIDEST = 32768  # elements of a row that one program of a kernel takes
NONE = Dropout(0.0, 0)
# One unit in the last place: some multiply by the weight in float32 and round once, where we round before it as well.
ONE_BIT = {torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10, torch.float32: 1e-5}


class _RmsNorm(torch.autograd.Function):
    """RMSNorm of rows (M, K) with a frozen weight."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, norm: Norm, ops: ModuleType) -> Tensor:
        out = torch.empty_like(rows)
        ops.rms_norm(rows, norm, out, NONE)
        ctx.save_for_backward(rows)
        ctx.norm, ctx.ops = norm, ops
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        (rows,) = ctx.saved_tensors
        return ctx.ops.norm_gradient(grad.contiguous(), rows, ctx.norm), None, None


def fuse_norm(module: Any, ops: ModuleType) -> bool:
    """Let an RMS norm with a frozen weight train through `_RmsNorm`, in place; False if it is anything else.

    Args:
        ops: `elementwise`, or `elementwise_triton`.
    """
    norm = _read(module)
    if norm is not None and not _is_ours(module, norm, ops):
        norm = norm._replace(one_plus=True)
        norm = norm if _is_ours(module, norm, ops) else None
    if norm is None:
        return False
    weight, plain = norm.weight, module.forward
    watched = WatchedModules("norm", module, inside=True)  # its eps

    def forward(x: Tensor, *args: Any, **options: Any) -> Tensor:
        same = module.weight is weight and x.dtype == weight.dtype and x.device == weight.device
        own = args or options or not torch.is_grad_enabled()
        if own or weight.requires_grad or not same or watched.change() is not None:
            return plain(x, *args, **options)  # type: ignore[no-any-return]
        # In the order of memory, in which heads that are turned lie in one piece; what follows finds them so again.
        order = [*sorted(range(x.dim() - 1), key=lambda d: -x.stride()[d]), x.dim() - 1]
        turned = x.permute(order)
        rows = turned.reshape(-1, weight.numel()).contiguous()
        with torch.autocast(x.device.type, enabled=False):
            y: Tensor = _RmsNorm.apply(rows, norm, ops)  # type: ignore[no-untyped-call]
        # Out here, where the model may change it in place.
        return y.view(turned.shape).permute(sorted(range(x.dim()), key=order.__getitem__))

    module.forward = forward
    return True


def _read(module: Any) -> Norm | None:
    """Weight and eps of a module that could be an RMS norm whose weight multiplies; None if it cannot."""
    if not type(module).__name__.endswith(NAME) or [*module.children()] or [*module.buffers()]:
        return None
    found = {value for name, value in vars(module).items() if "eps" in name and isinstance(value, float)}
    parameters, weight = [*module.parameters()], getattr(module, "weight", None)
    if len(found) != 1 or len(parameters) != 1 or parameters[0] is not weight:
        return None
    if weight.dim() != 1 or weight.requires_grad or weight.numel() > WIDEST or weight.dtype not in ONE_BIT:
        return None
    return Norm(weight, found.pop())


def _is_ours(module: nn.Module, norm: Norm, ops: ModuleType) -> bool:
    """Whether a module gives what `ops` gives for a norm, and its gradient in float32; in its dtype to one bit."""
    weight = norm.weight
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(2, 6, weight.numel(), generator=generator, device="cpu")
    # Rows so small that eps counts, and rows as large as those of a residual stream.
    drawn *= torch.logspace(-3, 2, 6, device="cpu")[:, None]
    x, grad = drawn.to(weight.device).requires_grad_(), drawn.flip(1).to(weight.device)
    flat = x.detach().flatten(0, 1)
    with torch.enable_grad(), torch.autocast(weight.device.type, enabled=False):
        try:
            y = module(x)
            (wanted,) = torch.autograd.grad(y, x, grad)
        except Exception:  # it wants other arguments, or other shapes
            return False
        right = _near(y, elementwise.rms_norm(flat, norm, torch.empty_like(flat), NONE))
        if not right or not _near(wanted, elementwise.norm_gradient(grad.flatten(0, 1), flat, norm)):
            return False
    flat = flat.to(weight.dtype)
    with torch.no_grad():
        out = ops.rms_norm(flat, norm, torch.empty_like(flat), NONE)
        for mixed in (False, weight.dtype != torch.float32):
            with torch.autocast(weight.device.type, weight.dtype if mixed else None, enabled=mixed):
                if not _near(module(flat), out):
                    return False
    return True


def _near(found: Tensor, wanted: Tensor) -> bool:
    """Whether the rows of both are the same to one bit."""
    if found.dtype != wanted.dtype or found.numel() != wanted.numel():
        return False
    off = (found.view(wanted.shape).float() - wanted.float()).norm(dim=-1)
    return bool((off <= ONE_BIT[wanted.dtype] * wanted.float().norm(dim=-1)).all())
