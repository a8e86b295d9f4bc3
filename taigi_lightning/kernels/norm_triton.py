"""`norm` as Triton kernels: a program takes a whole row."""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

import torch
import triton
import triton.language as tl
from torch import Tensor

from taigi_lightning.kernels.dropout import Dropout, LoraGradient
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
    value = value.to(out.dtype.element_ty)
    tl.store(out + row.to(tl.int64) * out_stride + column, value, mask=inside)
    if THRESHOLD > 0:
        kept = drop_element(value.to(tl.float32), row, column, seed, THRESHOLD, SCALE)
        tl.store(dropped + start + column, kept, mask=inside)


@triton.jit
def _squares(value):
    wide = value.to(tl.float32)
    return tl.sum(wide * wide, 0)


@triton.jit
def _along(grad, w, x):
    """Of the gradient behind a norm: its part along the normalised row, times the row's length and root mean square."""
    return tl.sum(grad * w * x.to(tl.float32), 0)


@triton.jit
def _read(
    grad, lora_grad, x, delta, residual_grad, start, grad_start, column, K, key,
    THRESHOLD: tl.constexpr, SCALE: tl.constexpr, LORA: tl.constexpr, RESIDUAL: tl.constexpr, POST: tl.constexpr,
):  # fmt: skip
    """A part of a row: x, delta, the gradient with LoRA's, which elements dropout keeps, the residual's gradient."""
    inside = column < K
    value = tl.load(x + start + column, mask=inside, other=0.0)
    more, residual, keep = value, value, inside
    if POST:
        more = tl.load(delta + start + column, mask=inside, other=0.0)
    joined = tl.load(grad + grad_start + column, mask=inside, other=0.0).to(tl.float32)
    if LORA:
        side = tl.load(lora_grad + start + column, mask=inside, other=0.0).to(tl.float32)
        if THRESHOLD > 0:
            keep = keep_element(key, column, THRESHOLD)
            side = tl.where(keep, side * SCALE, 0.0)
        joined += side
    if RESIDUAL:  # read early, though it is added last
        residual = tl.load(residual_grad + start + column, mask=inside, other=0.0)
    return value, more, joined, keep, residual


@triton.jit
def _write(
    value, joined, keep, residual, inverse, along, weight, dx, dropped, start, column, K,
    THRESHOLD: tl.constexpr, SCALE: tl.constexpr, LORA: tl.constexpr, RESIDUAL: tl.constexpr, NORM: tl.constexpr,
    KEEP: tl.constexpr, ONE_PLUS: tl.constexpr,
):  # fmt: skip
    """Store the gradient at a part of a row, and the norm again with dropout; return the gradient, float32."""
    inside = column < K
    again, result = value, joined
    if NORM:
        hat = value.to(tl.float32) * inverse
        w = tl.load(weight + column, mask=inside, other=0.0)
        again = weighted(hat, w, value.dtype, ONE_PLUS)
        result = inverse * (joined * weight_of(w, ONE_PLUS) - hat * along)
    if KEEP:
        again = again.to(dropped.dtype.element_ty)  # as it was forward, where the residual stream is wider
        if LORA and THRESHOLD > 0:
            again = tl.where(keep, again.to(tl.float32) * SCALE, 0.0)
        tl.store(dropped + start + column, again, mask=inside)
    if RESIDUAL:
        result += residual.to(tl.float32)
    tl.store(dx + start + column, result, mask=inside)
    return result


# A row in two parts, the second as short as it may be: of 8,192 lanes a row of 5,120 would leave three eighths idle.
@triton.jit(do_not_specialize=["seed"])
def _rms_norm_backward_kernel(
    grad, lora_grad, x, delta, post_weight, weight, residual_grad, dx, d_delta, dropped,
    K, grad_stride, post_eps, eps, seed,
    THRESHOLD: tl.constexpr, SCALE: tl.constexpr, LORA: tl.constexpr, RESIDUAL: tl.constexpr, POST: tl.constexpr,
    NORM: tl.constexpr, KEEP: tl.constexpr, ONE_PLUS: tl.constexpr, FIRST: tl.constexpr, REST: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    start, grad_start = row.to(tl.int64) * K, row.to(tl.int64) * grad_stride
    key = row_key(row, seed)
    c1, c2 = tl.arange(0, FIRST), FIRST + tl.arange(0, REST)
    v1, m1, j1, k1, r1 = _read(
        grad, lora_grad, x, delta, residual_grad, start, grad_start, c1, K, key, THRESHOLD, SCALE, LORA, RESIDUAL, POST
    )  # fmt: skip
    v2, m2, j2, k2, r2 = _read(
        grad, lora_grad, x, delta, residual_grad, start, grad_start, c2, K, key, THRESHOLD, SCALE, LORA, RESIDUAL, POST
    )  # fmt: skip
    if POST:
        post_inverse = tl.rsqrt((_squares(m1) + _squares(m2)) / K + post_eps)
        p1 = tl.load(post_weight + c1, mask=c1 < K, other=0.0)
        p2 = tl.load(post_weight + c2, mask=c2 < K, other=0.0)
        v1 = (v1 + weighted(m1.to(tl.float32) * post_inverse, p1, v1.dtype, ONE_PLUS)).to(v1.dtype)
        v2 = (v2 + weighted(m2.to(tl.float32) * post_inverse, p2, v2.dtype, ONE_PLUS)).to(v2.dtype)
    inverse, along = 1.0, 0.0
    if NORM:
        inverse = tl.rsqrt((_squares(v1) + _squares(v2)) / K + eps)
        w1 = weight_of(tl.load(weight + c1, mask=c1 < K, other=0.0), ONE_PLUS)
        w2 = weight_of(tl.load(weight + c2, mask=c2 < K, other=0.0), ONE_PLUS)
        along = inverse * (_along(j1, w1, v1) + _along(j2, w2, v2)) / K
    d1 = _write(
        v1, j1, k1, r1, inverse, along, weight, dx, dropped, start, c1, K, THRESHOLD, SCALE, LORA, RESIDUAL, NORM, KEEP,
        ONE_PLUS,
    )  # fmt: skip
    d2 = _write(
        v2, j2, k2, r2, inverse, along, weight, dx, dropped, start, c2, K, THRESHOLD, SCALE, LORA, RESIDUAL, NORM, KEEP,
        ONE_PLUS,
    )  # fmt: skip
    if POST:
        p1, p2 = weight_of(p1, ONE_PLUS), weight_of(p2, ONE_PLUS)
        along = post_inverse * (_along(d1, p1, m1) + _along(d2, p2, m2)) / K
        d1 = post_inverse * (d1 * p1 - m1.to(tl.float32) * post_inverse * along)
        d2 = post_inverse * (d2 * p2 - m2.to(tl.float32) * post_inverse * along)
        tl.store(d_delta + start + c1, d1, mask=c1 < K)
        tl.store(d_delta + start + c2, d2, mask=c2 < K)


def _row_options(columns: int) -> dict[str, int]:
    block = triton.next_power_of_2(columns)
    return {
        "BLOCK": block,
        "num_warps": 16 if block >= 8192 else 8 if block >= 2048 else 4 if block >= 512 else 1,
    }


def _part_options(columns: int, two_norms: bool) -> dict[str, int]:
    first = max(1, triton.next_power_of_2(columns) // 2)
    rest = triton.next_power_of_2(max(1, columns - first))
    options = {"FIRST": first, "REST": rest, "num_warps": 8 if first >= 1024 else 4 if first >= 256 else 1}
    # A wide row behind two norms would take so many registers that one program fills a multiprocessor.
    return options | ({"maxnreg": 128} if two_norms and first >= 4096 else {})


def _forward(
    x: Tensor,
    delta: Tensor | None,
    norm: Norm | None,
    out: Tensor,
    dropout: Dropout,
    post: Norm | None,
) -> tuple[Tensor, Tensor]:
    rows, columns = x.shape
    dropped = torch.empty_like(x, dtype=out.dtype) if dropout else out
    # Each program reads its row before it writes it; before a norm, delta may be saved for the backward pass.
    reused = delta is not None and post is None and delta.dtype == x.dtype
    total = x if delta is None else delta if reused else torch.empty_like(x)
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
    _rms_norm_backward_kernel[(rows,)](
        grad, x if lora_grad is None else lora_grad, x, x if delta is None else delta, first.weight,
        second.weight, dx, dx, dx if delta is None else delta, dx if dropped is None else dropped, columns,
        grad.stride(0), first.eps, second.eps, dropout.seed, dropout.threshold, dropout.scale,
        lora_grad is not None, residual_grad is not None, post is not None, norm is not None,
        dropped is not None, first.one_plus, **_part_options(columns, post is not None),
    )  # fmt: skip
    return dx


def norm_gradient(grad: Tensor, x: Tensor, norm: Norm) -> Tensor:
    return _backward(grad, None, x, None, None, norm, None, None, Dropout(0.0, 0))


def rms_norm_backward(
    grad: Tensor,
    lora: LoraGradient | None,
    x: Tensor,
    norm: Norm | None,
    residual_grad: Tensor | None,
    dropout: Dropout,
) -> tuple[Tensor, Tensor]:
    lora_grad = None if lora is None else lora[0] @ lora[1]
    dropped = torch.empty_like(x, dtype=grad.dtype) if lora_grad is None else lora_grad
    return _backward(grad, lora_grad, x, None, None, norm, residual_grad, dropped, dropout), dropped


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
    lora_grad = None if lora is None else lora[0] @ lora[1]
    dropped = torch.empty_like(x, dtype=grad.dtype) if lora_grad is None else lora_grad
    dx = _backward(grad, lora_grad, x, delta, post, norm, residual_grad, dropped, dropout)
    return dx, delta, dropped
