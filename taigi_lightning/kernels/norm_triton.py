"""`elementwise`'s norms as Triton kernels: a program takes a whole row."""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

import torch
import triton
import triton.language as tl
from torch import Tensor

from taigi_lightning.kernels.dropout_triton import drop_element, keep_element, row_key
from taigi_lightning.kernels.elementwise import Dropout


@triton.jit(do_not_specialize=["seed"])
def _rms_norm_kernel(
    x, delta, total, weight, out, dropped, K, out_stride, eps, seed,
    THRESHOLD: tl.constexpr, SCALE: tl.constexpr, ADD: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    start = row.to(tl.int64) * K
    column = tl.arange(0, BLOCK)
    inside = column < K
    value = tl.load(x + start + column, mask=inside, other=0.0)
    if ADD:
        value = value + tl.load(delta + start + column, mask=inside, other=0.0)
        tl.store(total + start + column, value, mask=inside)
    wide = value.to(tl.float32)
    inverse = tl.rsqrt(tl.sum(wide * wide, 0) / K + eps)
    normed = tl.load(weight + column, mask=inside, other=0.0) * (wide * inverse).to(value.dtype)
    tl.store(out + row.to(tl.int64) * out_stride + column, normed, mask=inside)
    if THRESHOLD > 0:
        kept = drop_element(normed.to(tl.float32), row, column, seed, THRESHOLD, SCALE)
        tl.store(dropped + start + column, kept, mask=inside)


@triton.jit(do_not_specialize=["seed"])
def _rms_norm_backward_kernel(
    grad, lora_grad, x, weight, residual_grad, dx, dropped, K, grad_stride, eps, seed,
    THRESHOLD: tl.constexpr, SCALE: tl.constexpr, LORA: tl.constexpr, RESIDUAL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    start = row.to(tl.int64) * K
    column = tl.arange(0, BLOCK)
    inside = column < K
    value = tl.load(x + start + column, mask=inside, other=0.0)
    wide = value.to(tl.float32)
    w = tl.load(weight + column, mask=inside, other=0.0)
    joined = tl.load(grad + row.to(tl.int64) * grad_stride + column, mask=inside, other=0.0).to(tl.float32)
    inverse = tl.rsqrt(tl.sum(wide * wide, 0) / K + eps)
    hat = wide * inverse
    normed = (w * hat.to(value.dtype)).to(tl.float32)
    if LORA:
        side = tl.load(lora_grad + start + column, mask=inside, other=0.0).to(tl.float32)
        if THRESHOLD > 0:
            keep = keep_element(row_key(row, seed), column, THRESHOLD)
            side = tl.where(keep, side * SCALE, 0.0)
            normed = tl.where(keep, normed * SCALE, 0.0)
        joined += side
    tl.store(dropped + start + column, normed, mask=inside)
    scaled = joined * w.to(tl.float32)
    result = inverse * (scaled - hat * (tl.sum(scaled * hat, 0) / K))
    if RESIDUAL:
        result += tl.load(residual_grad + start + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(dx + start + column, result, mask=inside)


def _row_options(columns: int) -> dict[str, int]:
    block = triton.next_power_of_2(columns)
    return {"BLOCK": block, "num_warps": 16 if block >= 8192 else 8 if block >= 2048 else 4}


def rms_norm(x: Tensor, weight: Tensor, eps: float, out: Tensor, dropout: Dropout) -> Tensor:
    rows, columns = x.shape
    dropped = torch.empty_like(x) if dropout else out
    _rms_norm_kernel[(rows,)](
        x, x, x, weight, out, dropped, columns, out.stride(0), eps, dropout.seed,
        dropout.threshold, dropout.scale, False, **_row_options(columns),
    )  # fmt: skip
    return dropped


def add_rms_norm(
    x: Tensor, delta: Tensor, weight: Tensor, eps: float, out: Tensor, dropout: Dropout
) -> tuple[Tensor, Tensor]:
    rows, columns = x.shape
    dropped = torch.empty_like(x) if dropout else out
    total = delta  # each program reads its row before it writes it
    _rms_norm_kernel[(rows,)](
        x, delta, total, weight, out, dropped, columns, out.stride(0), eps, dropout.seed,
        dropout.threshold, dropout.scale, True, **_row_options(columns),
    )  # fmt: skip
    return total, dropped


def rms_norm_backward(
    grad: Tensor,
    lora_grad: Tensor | None,
    x: Tensor,
    weight: Tensor,
    eps: float,
    residual_grad: Tensor | None,
    dropout: Dropout,
) -> tuple[Tensor, Tensor]:
    rows, columns = x.shape
    dropped = torch.empty_like(x) if lora_grad is None else lora_grad
    dx = torch.empty_like(x) if residual_grad is None else residual_grad
    _rms_norm_backward_kernel[(rows,)](
        grad, dropped, x, weight, dx, dx, dropped, columns, grad.stride(0), eps, dropout.seed,
        dropout.threshold, dropout.scale, lora_grad is not None, residual_grad is not None,
        **_row_options(columns), maxnreg=64,  # two programs a multiprocessor, so that one loads while one sums
    )  # fmt: skip
    return dx, dropped
