"""Kernels that make what fp8 products multiply: rows of activations, and 4-bit weights as they are or transposed.

A value is divided by a power of two and stored in the output's dtype; the store rounds it to e4m3.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

import torch
import triton
import triton.language as tl
from torch import Tensor

from taigi_lightning.kernels.fp8 import DTYPE
from taigi_lightning.kernels.nf4_triton import dequantised, state_parts


@triton.jit
def _inverse(scale):
    """1 / scale of powers of two, float32."""
    return ((254 << 23) - scale.to(tl.int32, bitcast=True)).to(tl.float32, bitcast=True)


@triton.jit
def _quantise_kernel(x, out, scales, K, x_stride, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    value = tl.load(x + row * x_stride + column, mask=column < K, other=0.0).to(tl.float32)
    bits = tl.max(tl.abs(value), 0).to(tl.int32, bitcast=True)
    exponent = tl.maximum((bits >> 23) - 8 + ((bits & 0x7FFFFF) > 0x600000).to(tl.int32), 1)
    scale = (exponent << 23).to(tl.float32, bitcast=True)
    # A card rounds infinity to the largest number, and a maximum may skip what is no number: the scale keeps both.
    tl.store(scales + row, scale + tl.sum(value * 0.0, 0))
    tl.store(out + row * K + column, (value * _inverse(scale)).to(out.dtype.element_ty), mask=column < K)


def quantise_rows(x: Tensor, dtype: torch.dtype = DTYPE) -> tuple[Tensor, Tensor]:
    """x (M, K), its rows perhaps apart, in e4m3, and the scale of each row, float32 (M, 1).

    The scale of a row that holds something not finite is not finite.
    """
    rows, columns = x.shape
    out = torch.empty(rows, columns, dtype=dtype, device=x.device)
    scales = torch.empty(rows, 1, dtype=torch.float32, device=x.device)
    block = triton.next_power_of_2(columns)
    _quantise_kernel[(rows,)](
        x, out, scales, columns, x.stride(0), block, num_warps=max(1, min(16, block // 1024))
    )
    return out, scales


@triton.jit
def _rows_kernel(
    packed, code, scales, scale_code, scale_scales, offset, row_scales, out, K,
    NESTED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    byte = tl.program_id(1) * (BLOCK // 2) + tl.arange(0, BLOCK // 2)
    even, odd = dequantised(
        packed, code, scales, scale_code, scale_scales, offset, row, byte, byte < K // 2, K, NESTED
    )
    inverse = _inverse(tl.load(row_scales + row))
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    value = tl.interleave(even * inverse, odd * inverse)
    tl.store(out + row * K + column, value.to(out.dtype.element_ty), mask=column < K)


@triton.jit
def _columns_kernel(
    packed, code, scales, scale_code, scale_scales, offset, column_scales, out, N, K, out_stride,
    NESTED: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    byte = tl.program_id(1) * (BLOCK // 2) + tl.arange(0, BLOCK // 2)
    inside = (row < N)[:, None] & (byte < K // 2)[None, :]
    even, odd = dequantised(
        packed, code, scales, scale_code, scale_scales, offset, row[:, None], byte[None, :], inside, K, NESTED
    )
    # Two columns of one byte are of one block, which is of one scale: see `fp8.largest`.
    inverse = _inverse(tl.load(column_scales + 2 * byte, mask=byte < K // 2, other=1.0))[None, :]
    # Tiles of even and of odd columns are turned by themselves: their rows go to every other row of the result.
    place = out + row[None, :]
    even_at = place + (2 * byte.to(tl.int64) * out_stride)[:, None]
    turned = tl.trans(inside)
    tl.store(even_at, tl.trans((even * inverse).to(out.dtype.element_ty)), mask=turned)
    tl.store(even_at + out_stride, tl.trans((odd * inverse).to(out.dtype.element_ty)), mask=turned)


def unpack_rows(packed: Tensor, state: "object", row_scales: Tensor, out: Tensor) -> None:
    """Write an NF4 weight, each row divided by its scale (N,), into out (N, K). K is a multiple of 64."""
    rows, columns = out.shape
    *parts, nested = state_parts(state)
    _rows_kernel[(rows, triton.cdiv(columns, 2048))](packed, *parts, row_scales, out, columns, nested, 2048)


def unpack_columns(packed: Tensor, state: "object", column_scales: Tensor, out: Tensor) -> None:
    """Write an NF4 weight (N, K), each column divided by its scale (K,), transposed into out (K, N).

    Rows of out may lie apart; K is a multiple of 64, and so is the number of columns that share a scale.
    """
    columns, rows = out.shape
    *parts, nested = state_parts(state)
    _columns_kernel[(triton.cdiv(rows, 128), triton.cdiv(columns, 64))](
        packed, *parts, column_scales, out, rows, columns, out.stride(0), nested, 128, 64, num_warps=4
    )
