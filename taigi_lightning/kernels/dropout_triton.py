"""Dropout's mask inside Triton kernels, the hash of `elementwise.keep_mask`, and what needs nothing but it."""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

import torch
import triton
import triton.language as tl
from torch import Tensor

from taigi_lightning.kernels.dropout import Dropout, LoraGradient

COLUMNS = 1024  # columns a program handles in kernels that need no whole row


@triton.jit
def row_key(row, seed):
    x = row * -2048144789 + seed
    x = (x ^ ((x >> 16) & 0xFFFF)) * 0x7FEB352D
    x = (x ^ ((x >> 15) & 0x1FFFF)) * -2073254261
    return x ^ ((x >> 16) & 0xFFFF)


@triton.jit
def keep_element(row_key, column, THRESHOLD: tl.constexpr):
    x = row_key ^ (column * -1640531535)
    x = (x ^ ((x >> 16) & 0xFFFF)) * 0x7FEB352D
    x = (x ^ ((x >> 15) & 0x1FFFF)) * -2073254261
    return ((x >> 8) & 0xFFFFFF) >= THRESHOLD


@triton.jit
def drop_element(x, row, column, seed, THRESHOLD: tl.constexpr, SCALE: tl.constexpr):
    return tl.where(keep_element(row_key(row, seed), column, THRESHOLD), x * SCALE, 0.0)


@triton.jit(do_not_specialize=["seed"])
def _copy_drop_kernel(
    x, out, dropped, K, out_stride, seed, THRESHOLD: tl.constexpr, SCALE: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < K
    value = tl.load(x + row.to(tl.int64) * K + column, mask=inside)
    tl.store(out + row.to(tl.int64) * out_stride + column, value, mask=inside)
    if THRESHOLD > 0:
        kept = drop_element(value.to(tl.float32), row, column, seed, THRESHOLD, SCALE)
        tl.store(dropped + row.to(tl.int64) * K + column, kept, mask=inside)


@triton.jit(do_not_specialize=["seed"])
def _drop_backward_kernel(
    grad, lora_grad, x, dx, dropped, K, grad_stride, seed,
    THRESHOLD: tl.constexpr, SCALE: tl.constexpr, LORA: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < K
    at = row.to(tl.int64) * K + column
    joined = tl.load(grad + row.to(tl.int64) * grad_stride + column, mask=inside).to(tl.float32)
    if LORA:
        side = tl.load(lora_grad + at, mask=inside).to(tl.float32)
        if THRESHOLD > 0:
            keep = keep_element(row_key(row, seed), column, THRESHOLD)
            side = tl.where(keep, side * SCALE, 0.0)
            value = tl.load(x + at, mask=inside).to(tl.float32)
            tl.store(dropped + at, tl.where(keep, value * SCALE, 0.0), mask=inside)
        joined += side
    tl.store(dx + at, joined, mask=inside)


def copy_drop(x: Tensor, out: Tensor, dropout: Dropout) -> Tensor:
    rows, columns = x.shape
    dropped = torch.empty_like(x) if dropout else x
    _copy_drop_kernel[(rows, triton.cdiv(columns, COLUMNS))](
        x, out, dropped, columns, out.stride(0), dropout.seed, dropout.threshold, dropout.scale, COLUMNS
    )
    return dropped


def drop_backward(
    grad: Tensor, lora: LoraGradient | None, x: Tensor, dropout: Dropout
) -> tuple[Tensor, Tensor]:
    lora_grad = None if lora is None else lora[0] @ lora[1]
    rows, columns = x.shape
    dropped = lora_grad if dropout and lora_grad is not None else x
    dx = torch.empty_like(x)
    _drop_backward_kernel[(rows, triton.cdiv(columns, COLUMNS))](
        grad, x if lora_grad is None else lora_grad, x, dx, dropped, columns, grad.stride(0), dropout.seed,
        dropout.threshold, dropout.scale, lora_grad is not None, COLUMNS,
    )  # fmt: skip
    return dx, dropped
