"""`elementwise` as Triton kernels: each tensor is read once and written once, in place where that is allowed.

Same functions, same arguments, same dropout masks; `elementwise` is the specification and the tests compare.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

import torch
import triton
import triton.language as tl
from torch import Tensor

from taigi_lightning.kernels.cross_entropy_triton import softmax_loss_
from taigi_lightning.kernels.dropout_triton import drop_element, keep_element, row_key
from taigi_lightning.kernels.elementwise import TANH_CUBE, TANH_SLOPE, Activation, Dropout
from taigi_lightning.kernels.head_norm_triton import norm_rotate, norm_rotate_back
from taigi_lightning.kernels.norm_triton import (
    add_rms_norm,
    add_rms_norm_backward,
    norm_gradient,
    rms_norm,
    rms_norm_backward,
)
from taigi_lightning.kernels.rope_triton import rotate, rotate_back

__all__ = [
    "add_rms_norm", "add_rms_norm_backward", "copy_drop", "drop_backward", "gather_rows", "glu", "glu_backward",
    "norm_gradient", "norm_rotate", "norm_rotate_back", "rms_norm", "rms_norm_backward", "rotate", "rotate_back",
    "softmax_loss_",
]  # fmt: skip

COLUMNS = 1024  # columns a program handles in kernels that need no whole row


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


# Both activations are gate * sigmoid(z). GELU's z is TWICE * (gate + TANH_CUBE * gate^3), TWICE being 2 * TANH_SLOPE.
@triton.jit
def _gate_sigmoid(
    gate, TANH: tl.constexpr, TWICE: tl.constexpr = 2 * TANH_SLOPE, CUBE: tl.constexpr = TANH_CUBE
):
    if TANH:
        return tl.sigmoid(TWICE * gate * (1.0 + CUBE * gate * gate))
    return tl.sigmoid(gate)


@triton.jit
def _activation_slope(
    gate, sigmoid, TANH: tl.constexpr, TWICE: tl.constexpr = 2 * TANH_SLOPE, CUBE: tl.constexpr = TANH_CUBE
):
    inner = gate * (1.0 - sigmoid)
    if TANH:
        inner *= TWICE * (1.0 + 3.0 * CUBE * gate * gate)
    return sigmoid * (1.0 + inner)


@triton.jit(do_not_specialize=["seed"])
def _glu_kernel(
    gate_up, out, dropped, F, out_stride, seed,
    THRESHOLD: tl.constexpr, SCALE: tl.constexpr, TANH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < F
    at = gate_up + row.to(tl.int64) * (2 * F) + column
    gate = tl.load(at, mask=inside)
    up = tl.load(at + F, mask=inside)
    wide = gate.to(tl.float32)
    sigmoid = _gate_sigmoid(wide, TANH)
    product = (wide * sigmoid).to(gate.dtype) * up
    tl.store(out + row.to(tl.int64) * out_stride + column, product, mask=inside)
    if THRESHOLD > 0:
        kept = drop_element(product.to(tl.float32), row, column, seed, THRESHOLD, SCALE)
        tl.store(dropped + row.to(tl.int64) * F + column, kept, mask=inside)


@triton.jit(do_not_specialize=["seed"])
def _glu_backward_kernel(
    grad, lora_grad, gate_up, dropped, F, grad_stride, seed,
    THRESHOLD: tl.constexpr, SCALE: tl.constexpr, TANH: tl.constexpr, LORA: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < F
    at = gate_up + row.to(tl.int64) * (2 * F) + column
    narrow = tl.load(at, mask=inside)
    gate = narrow.to(tl.float32)
    up = tl.load(at + F, mask=inside)
    joined = tl.load(grad + row.to(tl.int64) * grad_stride + column, mask=inside).to(tl.float32)
    sigmoid = _gate_sigmoid(gate, TANH)
    activated = (gate * sigmoid).to(narrow.dtype)
    product = (activated * up).to(tl.float32)
    if LORA:
        side = tl.load(lora_grad + row.to(tl.int64) * F + column, mask=inside).to(tl.float32)
        if THRESHOLD > 0:
            keep = keep_element(row_key(row, seed), column, THRESHOLD)
            side = tl.where(keep, side * SCALE, 0.0)
            product = tl.where(keep, product * SCALE, 0.0)
        joined += side
    tl.store(dropped + row.to(tl.int64) * F + column, product, mask=inside)
    slope = _activation_slope(gate, sigmoid, TANH)
    tl.store(at, joined * up.to(tl.float32) * slope, mask=inside)
    tl.store(at + F, joined * activated.to(tl.float32), mask=inside)


@triton.jit
def _gather_kernel(table, rows, out, H, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < H
    source = tl.load(rows + row)
    tl.store(out + row * H + column, tl.load(table + source * H + column, mask=inside), mask=inside)


def copy_drop(x: Tensor, out: Tensor, dropout: Dropout) -> Tensor:
    rows, columns = x.shape
    dropped = torch.empty_like(x) if dropout else x
    _copy_drop_kernel[(rows, triton.cdiv(columns, COLUMNS))](
        x, out, dropped, columns, out.stride(0), dropout.seed, dropout.threshold, dropout.scale, COLUMNS
    )
    return dropped


def drop_backward(
    grad: Tensor, lora_grad: Tensor | None, x: Tensor, dropout: Dropout
) -> tuple[Tensor, Tensor]:
    rows, columns = x.shape
    dropped = lora_grad if dropout and lora_grad is not None else x
    dx = torch.empty_like(x)
    _drop_backward_kernel[(rows, triton.cdiv(columns, COLUMNS))](
        grad, x if lora_grad is None else lora_grad, x, dx, dropped, columns, grad.stride(0), dropout.seed,
        dropout.threshold, dropout.scale, lora_grad is not None, COLUMNS,
    )  # fmt: skip
    return dx, dropped


def glu(gate_up: Tensor, out: Tensor, dropout: Dropout, activation: Activation) -> Tensor:
    rows, columns = gate_up.shape[0], gate_up.shape[1] // 2
    dropped = gate_up.new_empty(rows, columns) if dropout else out
    _glu_kernel[(rows, triton.cdiv(columns, COLUMNS))](
        gate_up, out, dropped, columns, out.stride(0), dropout.seed, dropout.threshold, dropout.scale,
        activation == "gelu_tanh", COLUMNS,
    )  # fmt: skip
    return dropped


def glu_backward(
    grad: Tensor, lora_grad: Tensor | None, gate_up: Tensor, dropout: Dropout, activation: Activation
) -> tuple[Tensor, Tensor]:
    rows, columns = gate_up.shape[0], gate_up.shape[1] // 2
    dropped = gate_up.new_empty(rows, columns) if lora_grad is None else lora_grad
    _glu_backward_kernel[(rows, triton.cdiv(columns, COLUMNS))](
        grad, dropped, gate_up, dropped, columns, grad.stride(0), dropout.seed,
        dropout.threshold, dropout.scale, activation == "gelu_tanh", lora_grad is not None, COLUMNS,
    )  # fmt: skip
    return gate_up, dropped


def gather_rows(table: Tensor, rows: Tensor) -> Tensor:
    out = torch.empty(rows.numel(), table.shape[1], dtype=table.dtype, device=rows.device)
    _gather_kernel[(rows.numel(), triton.cdiv(table.shape[1], COLUMNS))](
        table, rows.contiguous(), out, table.shape[1], COLUMNS
    )
    return out
