"""Rotary position embedding, and the RMS norm of q and k that some architectures have before it, in plain torch."""

from typing import NamedTuple

import torch
from torch import Tensor

from taigi_lightning.kernels.norm import Norm, norm_gradient, normed


class HeadNorms(NamedTuple):
    """The norms of q and k: of each head's D elements, or, if whole, of all heads' together."""

    q: Norm
    k: Norm
    whole: bool


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    c, s = cos[:, None, :half].float(), sin[:, None, :half].float()
    first, second = x[..., :half].float(), x[..., half:].float()
    return torch.cat([first * c - second * s, second * c + first * s], dim=-1)


def rotate(x: Tensor, cos: Tensor, sin: Tensor, out: Tensor) -> None:
    """Rotary position embedding of x (M, heads, D) into out, which may be x. cos, sin: (M, D)."""
    out.copy_(_rotated(x, cos, sin))


def rotate_back(q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, out: Tensor) -> None:
    """Gradients before the rotation, side by side in out (M, heads + 2 kv_heads, D), from those after it.

    q (M, heads, D) and k (M, kv_heads, D) are turned back, v (M, kv_heads, D) is not. Each may have strides of its
    own over rows and heads. cos, sin: (M, D).
    """
    to_q, to_k, to_v = torch.split(out, [q.shape[1], k.shape[1], v.shape[1]], dim=1)
    to_q.copy_(_rotated(q, cos, -sin))
    to_k.copy_(_rotated(k, cos, -sin))
    to_v.copy_(v)


def _by_norm(x: Tensor, heads: int, norms: HeadNorms) -> list[tuple[Tensor, Norm]]:
    """q and k out of x (M, heads + kv_heads, D), shaped so that their last dimension is what is normalised."""
    parts = x[:, :heads], x[:, heads:]
    return [
        (part.flatten(1) if norms.whole else part, norm) for part, norm in zip(parts, norms[:2], strict=True)
    ]


def norm_rotate(x: Tensor, heads: int, norms: HeadNorms, cos: Tensor, sin: Tensor, out: Tensor) -> None:
    """Normalise q (the first heads) and k in x (M, heads + kv_heads, D), then rotate them into out of that shape."""
    found = [normed(part, norm).view(len(x), -1, x.shape[2]) for part, norm in _by_norm(x, heads, norms)]
    out.copy_(_rotated(torch.cat(found, 1), cos, sin))


def norm_rotate_back(
    q: Tensor, k: Tensor, v: Tensor, x: Tensor, norms: HeadNorms, cos: Tensor, sin: Tensor, out: Tensor
) -> None:
    """As `rotate_back`, and on through the norms to their input x (M, heads + kv_heads, D)."""
    rotate_back(q, k, v, cos, sin, out)
    heads, turned = q.shape[1], x.shape[1]
    gradients = _by_norm(out[:, :turned], heads, norms)
    inputs = _by_norm(x, heads, norms)
    found = [norm_gradient(g, part, norm) for (g, _), (part, norm) in zip(gradients, inputs, strict=True)]
    out[:, :turned] = torch.cat([f.view(len(x), -1, x.shape[2]) for f in found], 1)
