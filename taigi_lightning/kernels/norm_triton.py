"""`norm` as Triton kernels: a program takes a whole row."""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

import torch
import triton
import triton.language as tl
from torch import Tensor

from taigi_lightning.kernels.dropout import Dropout
from taigi_lightning.kernels.dropout_triton import drop_element, keep_element, row_key
from taigi_lightning.kernels.norm import Norm


@triton.jit
def weighted(hat, weight, LIKE: tl.constexpr, ONE_PLUS: tl.constexpr):
    if ONE_PLUS:
        return (hat * (1.0 + weight.to(tl.float32))).to(LIKE)
    return weight * hat.to(LIKE)


@triton.jit
def weight_of(weight, ONE_PLUS: tl.constexpr):
    if ONE_PLUS:
        return 1.0 + weight.to(tl.float32)
    return weight.to(tl.float32)


@triton.jit
def _normalised(value, K, eps):
    wide = value.to(tl.float32)
    inverse = tl.rsqrt(tl.sum(wide * wide, 0) / K + eps)
    return wide * inverse, inverse


@triton.jit
def _through(grad, hat, inverse, w, K):
    scaled = grad * w
    return inverse * (scaled - hat * (tl.sum(scaled * hat, 0) / K))


@triton.jit(do_not_specialize=["seed"])
def _rms_norm_kernel(
    x, delta, total, post_weight, weight, out, dropped, K, out_stride, post_eps, eps, seed,
    THRESHOLD: tl.constexpr, SCALE: tl.constexpr, ADD: tl.constexpr, POST: tl.constexpr, NORM: tl.constexpr,
    ONE_PLUS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    start = row.to(tl.int64) * K
    column = tl.arange(0, BLOCK)
    inside = column < K
    value = tl.load(x + start + column, mask=inside, other=0.0)
    if ADD:
        more = tl.load(delta + start + column, mask=inside, other=0.0)
        if POST:
            hat, _ = _normalised(more, K, post_eps)
            w = tl.load(post_weight + column, mask=inside, other=0.0)
            more = weighted(hat, w, value.dtype, ONE_PLUS)
        value = (value + more).to(value.dtype)
        tl.store(total + start + column, value, mask=inside)
    if NORM:
        hat, _ = _normalised(value, K, eps)
        value = weighted(hat, tl.load(weight + column, mask=inside, other=0.0), value.dtype, ONE_PLUS)
    tl.store(out + row.to(tl.int64) * out_stride + column, value, mask=inside)
    if THRESHOLD > 0:
        kept = drop_element(value.to(tl.float32), row, column, seed, THRESHOLD, SCALE)
        tl.store(dropped + start + column, kept, mask=inside)


@triton.jit(do_not_specialize=["seed"])
def _rms_norm_backward_kernel(
    grad, lora_grad, x, delta, post_weight, weight, residual_grad, dx, d_delta, dropped,
    K, grad_stride, post_eps, eps, seed,
    THRESHOLD: tl.constexpr, SCALE: tl.constexpr, LORA: tl.constexpr, RESIDUAL: tl.constexpr, POST: tl.constexpr,
    NORM: tl.constexpr, KEEP: tl.constexpr, ONE_PLUS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    start = row.to(tl.int64) * K
    column = tl.arange(0, BLOCK)
    inside = column < K
    value = tl.load(x + start + column, mask=inside, other=0.0)
    if POST:
        more = tl.load(delta + start + column, mask=inside, other=0.0)
        post_hat, post_inverse = _normalised(more, K, post_eps)
        post_w = tl.load(post_weight + column, mask=inside, other=0.0)
        value = (value + weighted(post_hat, post_w, value.dtype, ONE_PLUS)).to(value.dtype)
    joined = tl.load(grad + row.to(tl.int64) * grad_stride + column, mask=inside, other=0.0).to(tl.float32)
    normed = value
    if NORM:
        hat, inverse = _normalised(value, K, eps)
        w = tl.load(weight + column, mask=inside, other=0.0)
        normed = weighted(hat, w, value.dtype, ONE_PLUS)
    again = normed.to(tl.float32)
    if LORA:
        side = tl.load(lora_grad + start + column, mask=inside, other=0.0).to(tl.float32)
        if THRESHOLD > 0:
            keep = keep_element(row_key(row, seed), column, THRESHOLD)
            side = tl.where(keep, side * SCALE, 0.0)
            again = tl.where(keep, again * SCALE, 0.0)
        joined += side
    if KEEP:
        tl.store(dropped + start + column, again, mask=inside)
    result = joined
    if NORM:
        result = _through(joined, hat, inverse, weight_of(w, ONE_PLUS), K)
    if RESIDUAL:
        result += tl.load(residual_grad + start + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(dx + start + column, result, mask=inside)
    if POST:
        result = _through(result, post_hat, post_inverse, weight_of(post_w, ONE_PLUS), K)
        tl.store(d_delta + start + column, result, mask=inside)


def _row_options(columns: int) -> dict[str, int]:
    block = triton.next_power_of_2(columns)
    return {"BLOCK": block, "num_warps": 16 if block >= 8192 else 8 if block >= 2048 else 4}


def _forward(
    x: Tensor,
    delta: Tensor | None,
    norm: Norm | None,
    out: Tensor,
    dropout: Dropout,
    post: Norm | None,
) -> tuple[Tensor, Tensor]:
    rows, columns = x.shape
    dropped = torch.empty_like(x) if dropout else out
    # Each program reads its row before it writes it; before a norm, delta may be saved for the backward pass.
    total = x if delta is None else delta if post is None else torch.empty_like(x)
    first, second = post or norm or Norm(x, 0.0), norm or Norm(x, 0.0)
    _rms_norm_kernel[(rows,)](
        x, total if delta is None else delta, total, first.weight, second.weight, out, dropped, columns,
        out.stride(0), first.eps, second.eps, dropout.seed, dropout.threshold, dropout.scale, delta is not None,
        post is not None, norm is not None, first.one_plus, **_row_options(columns),
    )  # fmt: skip
    return total, dropped


def rms_norm(x: Tensor, norm: Norm | None, out: Tensor, dropout: Dropout) -> Tensor:
    return _forward(x, None, norm, out, dropout, None)[1]


def add_rms_norm(
    x: Tensor, delta: Tensor, norm: Norm | None, out: Tensor, dropout: Dropout, post: Norm | None = None
) -> tuple[Tensor, Tensor]:
    return _forward(x, delta, norm, out, dropout, post)


def _backward(
    grad: Tensor,
    lora_grad: Tensor | None,
    x: Tensor,
    delta: Tensor | None,
    post: Norm | None,
    norm: Norm | None,
    residual_grad: Tensor | None,
    dropped: Tensor | None,
    dropout: Dropout,
) -> Tensor:
    """Writes dropped, if it is wanted, and delta, in place; returns the gradient at the sum."""
    rows, columns = x.shape
    dx = torch.empty_like(x) if residual_grad is None else residual_grad
    first, second = post or norm or Norm(x, 0.0), norm or Norm(x, 0.0)
    # Two programs a multiprocessor, so that one loads while one sums; two norms hold more than that allows.
    registers = {"maxnreg": 64} if post is None else {}
    _rms_norm_backward_kernel[(rows,)](
        grad, x if lora_grad is None else lora_grad, x, x if delta is None else delta, first.weight,
        second.weight, dx, dx, dx if delta is None else delta, dx if dropped is None else dropped, columns,
        grad.stride(0), first.eps, second.eps, dropout.seed, dropout.threshold, dropout.scale,
        lora_grad is not None, residual_grad is not None, post is not None, norm is not None,
        dropped is not None, first.one_plus, **_row_options(columns), **registers,
    )  # fmt: skip
    return dx


def norm_gradient(grad: Tensor, x: Tensor, norm: Norm) -> Tensor:
    return _backward(grad, None, x, None, None, norm, None, None, Dropout(0.0, 0))


def rms_norm_backward(
    grad: Tensor,
    lora_grad: Tensor | None,
    x: Tensor,
    norm: Norm | None,
    residual_grad: Tensor | None,
    dropout: Dropout,
) -> tuple[Tensor, Tensor]:
    dropped = torch.empty_like(x) if lora_grad is None else lora_grad
    return _backward(grad, lora_grad, x, None, None, norm, residual_grad, dropped, dropout), dropped


def add_rms_norm_backward(
    grad: Tensor,
    lora_grad: Tensor | None,
    x: Tensor,
    delta: Tensor,
    post: Norm,
    norm: Norm | None,
    residual_grad: Tensor,
    dropout: Dropout,
) -> tuple[Tensor, Tensor, Tensor]:
    dropped = torch.empty_like(x) if lora_grad is None else lora_grad
    dx = _backward(grad, lora_grad, x, delta, post, norm, residual_grad, dropped, dropout)
    return dx, delta, dropped
