"""RMS norms of rows, before and after a residual stream's additions, in plain torch."""

from typing import NamedTuple

import torch
from torch import Tensor

from taigi_lightning.kernels.dropout import Dropout, LoraGradient, drop, joined_gradient


class Norm(NamedTuple):
    """One RMS norm: its weight (K,), eps, and whether the weight is kept as w - 1 (then it multiplies in float32)."""

    weight: Tensor
    eps: float
    one_plus: bool = False


def _normalise(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    rows = x.float()
    inverse = torch.rsqrt(rows.pow(2).mean(-1, keepdim=True) + eps)
    return rows * inverse, inverse


def _weighted(hat: Tensor, norm: Norm, dtype: torch.dtype) -> Tensor:
    if norm.one_plus:
        return (hat * (1.0 + norm.weight.float())).to(dtype)
    return norm.weight * hat.to(dtype)


def normed(x: Tensor, norm: Norm | None, dtype: torch.dtype | None = None) -> Tensor:
    """RMSNorm(x) over the last dimension, in x's dtype or the one given; x itself if norm is None."""
    return x if norm is None else _weighted(_normalise(x, norm.eps)[0], norm, dtype or x.dtype)


def rms_norm(x: Tensor, norm: Norm | None, out: Tensor, dropout: Dropout) -> Tensor:
    """Write RMSNorm(x), or x if norm is None, into out (M, K); return it with dropout applied.

    In all of these x may be the residual stream in float32, with what the layers compute in float16.
    """
    out.copy_(normed(x, norm))
    return drop(out, dropout) if dropout else out


def add_rms_norm(
    x: Tensor, delta: Tensor, norm: Norm | None, out: Tensor, dropout: Dropout, post: Norm | None = None
) -> tuple[Tensor, Tensor]:
    """As `rms_norm` of x + delta, or of x + post(delta); returns (the sum, the dropped-out norm).

    Without post the sum may take delta's memory; with it, delta stays as it is.
    """
    total = x + normed(delta, post, x.dtype)
    return total, rms_norm(total, norm, out, dropout)


def _through_norm(grad: Tensor, x: Tensor, norm: Norm) -> Tensor:
    """Gradient at x, float32, from that of RMSNorm(x)."""
    hat, inverse = _normalise(x, norm.eps)
    scaled = grad * (norm.weight.float() + norm.one_plus)
    return inverse * (scaled - hat * (scaled * hat).mean(-1, keepdim=True))


def norm_gradient(grad: Tensor, x: Tensor, norm: Norm) -> Tensor:
    """Gradient at x from that of RMSNorm(x), over the last dimension."""
    return _through_norm(grad.float(), x, norm).to(x.dtype)


def rms_norm_backward(
    grad: Tensor,
    lora: LoraGradient | None,
    x: Tensor,
    norm: Norm | None,
    residual_grad: Tensor | None,
    dropout: Dropout,
) -> tuple[Tensor, Tensor]:
    """Gradient at x, plus residual_grad; and the dropped-out norm again, which the gradient of A needs.

    All (M, K). residual_grad's memory may be reused for the results.
    """
    dx = joined_gradient(grad, lora, dropout)
    if norm is not None:
        dx = _through_norm(dx, x, norm)
    if residual_grad is not None:
        dx = dx + residual_grad.float()
    again = normed(x, norm).to(grad.dtype)
    return dx.to(x.dtype), drop(again, dropout) if dropout else again


def add_rms_norm_backward(
    grad: Tensor,
    lora: LoraGradient | None,
    x: Tensor,
    delta: Tensor,
    post: Norm,
    norm: Norm | None,
    residual_grad: Tensor,
    dropout: Dropout,
) -> tuple[Tensor, Tensor, Tensor]:
    """As `rms_norm_backward` at x + post(delta): gradient at the sum, gradient at delta, the dropped-out norm.

    All (M, K). residual_grad's and delta's memory may be reused for the results.
    """
    total = x + normed(delta, post, x.dtype)
    dx, dropped = rms_norm_backward(grad, lora, total, norm, residual_grad, dropout)
    return dx, norm_gradient(dx, delta, post), dropped
