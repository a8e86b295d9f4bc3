"""The rotation of q and k in transformers' own layers as one operation, which reads and writes each once.

Transformers makes it of halves, negated and put together again, in about ten passes forward and twelve backward. Its
function has the same name in every architecture that has it, but not the same meaning: so it is compared with our
operation first, and the tables of angles once, when the first pass brings them. The function itself stays: the
attention gets a forward pass whose globals name ours instead.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from taigi_lightning.fast_path.own_names import mean_instead
from taigi_lightning.kernels import elementwise

NAME = "apply_rotary_pos_emb"
Rotate = Callable[..., tuple[Tensor, Tensor]]


class _Rotation(torch.autograd.Function):
    """q (B, heads, T, D) and k (B, kv_heads, T, D) turned by angles of which cos and sin (B, T, D) are given."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, ops: ModuleType
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(cos, sin)
        ctx.ops = ops
        return _turned(q, cos, sin, ops), _turned(k, cos, sin, ops)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        cos, sin = ctx.saved_tensors
        return *(_turned(grad, cos, -sin, ctx.ops) for grad in grads), None, None, None


def _turned(x: Tensor, cos: Tensor, sin: Tensor, ops: ModuleType) -> Tensor:
    """x (B, heads, T, D) turned, its dimensions in x's order of memory."""
    x = x if x.stride(-1) == 1 else x.contiguous()
    out = torch.empty_like(x)
    # Where rows follow each other in memory they are one long one, else each is turned by itself.
    if all(t.stride(0) == t.shape[2] * t.stride(2) for t in (x, out)):
        x, to = (t.transpose(1, 2).flatten(0, 1)[None] for t in (x, out))
        cos, sin = cos.flatten(0, 1)[None], sin.flatten(0, 1)[None]
    else:
        x, to = x.transpose(1, 2), out.transpose(1, 2)
    for row in zip(x, cos, sin, to, strict=True):
        ops.rotate(*row)
    return out


def fuse_rotation(module: Any, ops: ModuleType) -> bool:
    """Let an attention rotate q and k through `_Rotation` in training, in place; False if it does it otherwise.

    Args:
        ops: `elementwise`, or `elementwise_triton`.
    """
    return mean_instead(module, NAME, lambda plain: _instead(plain, ops) if _is_ours(plain) else None)


def _instead(plain: Rotate, ops: ModuleType) -> Rotate:
    """What stands in for a function that rotates."""
    alike: list[bool] = []  # whether both halves of the first tables were, once they have been seen

    def rotate(*args: Any, **options: Any) -> tuple[Tensor, Tensor]:
        if options or len(args) != 4 or not torch.is_grad_enabled() or not _fits(*args):
            return plain(*args, **options)
        if not alike and not args[3].any():
            return plain(*args)  # the first place of a row alone, where every table has like halves
        if not alike:
            alike.append(all(torch.equal(*table.chunk(2, -1)) for table in args[2:]))
        if not alike[0]:
            return plain(*args)
        result: tuple[Tensor, Tensor] = _Rotation.apply(*args, ops)  # type: ignore[no-untyped-call]
        return result

    return rotate


def _fits(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> bool:
    """Whether whole heads are turned, by tables that have a row for each row and do not train."""
    shape = (q.shape[0], *q.shape[2:]) if q.dim() == 4 else ()
    return (
        k.dim() == 4
        and (k.shape[0], *k.shape[2:]) == shape == cos.shape == sin.shape
        and q.shape[-1] % 2 == 0
        and {(t.dtype, t.device) for t in (q, k, cos, sin)} == {(q.dtype, q.device)}
        and q.stride(-1) == k.stride(-1) == 1
        and cos.is_contiguous()
        and sin.is_contiguous()
        and not cos.requires_grad
        and not sin.requires_grad
    )


@cache
@torch.no_grad()
def _is_ours(plain: Rotate) -> bool:
    """Whether a function turns the first half of each head towards the second, by the angle of its place."""
    generator = torch.Generator().manual_seed(0)
    q, k, angles = (
        torch.randn(shape, generator=generator, device="cpu")
        for shape in ((2, 3, 5, 8), (2, 1, 5, 8), (2, 5, 4))
    )
    cos, sin = (torch.cat([table, table], -1) for table in (angles.cos(), angles.sin()))
    try:
        found = plain(q.clone(), k.clone(), cos, sin)
        return all(
            torch.allclose(one, _turned(x, cos, sin, elementwise), rtol=1e-5, atol=1e-6)
            for one, x in zip(found, (q, k), strict=True)
        )
    except Exception:  # it wants other arguments
        return False
