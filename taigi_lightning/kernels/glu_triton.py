"""`elementwise.glu` and its backward pass as Triton kernels: a program takes a part of a row."""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

import triton
import triton.language as tl
from torch import Tensor

from taigi_lightning.kernels.dropout_triton import COLUMNS, drop_element, keep_element, row_key
from taigi_lightning.kernels.elementwise import TANH_CUBE, TANH_SLOPE, Activation, Dropout, LoraGradient


# Both activations are gate * sigmoid(z). GELU's z is TWICE * (gate + TANH_CUBE * gate^3), TWICE being 2 * TANH_SLOPE.
@triton.jit
def gate_sigmoid(
    gate, TANH: tl.constexpr, TWICE: tl.constexpr = 2 * TANH_SLOPE, CUBE: tl.constexpr = TANH_CUBE
):
    if TANH:
        return tl.sigmoid(TWICE * gate * (1.0 + CUBE * gate * gate))
    return tl.sigmoid(gate)


@triton.jit
def activation_slope(
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
    sigmoid = gate_sigmoid(wide, TANH)
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
    sigmoid = gate_sigmoid(gate, TANH)
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
    slope = activation_slope(gate, sigmoid, TANH)
    tl.store(at, joined * up.to(tl.float32) * slope, mask=inside)
    tl.store(at + F, joined * activated.to(tl.float32), mask=inside)


def glu(gate_up: Tensor, out: Tensor, dropout: Dropout, activation: Activation) -> Tensor:
    rows, columns = gate_up.shape[0], gate_up.shape[1] // 2
    dropped = gate_up.new_empty(rows, columns) if dropout else out
    _glu_kernel[(rows, triton.cdiv(columns, COLUMNS))](
        gate_up, out, dropped, columns, out.stride(0), dropout.seed, dropout.threshold, dropout.scale,
        activation == "gelu_tanh", COLUMNS,
    )  # fmt: skip
    return dropped


def glu_backward(
    grad: Tensor, lora: LoraGradient | None, gate_up: Tensor, dropout: Dropout, activation: Activation
) -> tuple[Tensor, Tensor]:
    lora_grad = None if lora is None else lora[0] @ lora[1]
    rows, columns = gate_up.shape[0], gate_up.shape[1] // 2
    dropped = gate_up.new_empty(rows, columns) if lora_grad is None else lora_grad
    _glu_backward_kernel[(rows, triton.cdiv(columns, COLUMNS))](
        grad, dropped, gate_up, dropped, columns, grad.stride(0), dropout.seed,
        dropout.threshold, dropout.scale, activation == "gelu_tanh", lora_grad is not None, COLUMNS,
    )  # fmt: skip
    return gate_up, dropped
