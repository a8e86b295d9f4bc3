"""Dequantise a double-quantised NF4 weight straight into the columns of a wider matrix, in one pass."""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def dequantised(
    packed, code, scales, scale_code, scale_scales, offset, row, byte, inside, K, NESTED: tl.constexpr
):
    """The even and the odd columns of NF4 weights, float32, at some rows and bytes of a row."""
    at = row * (K // 2) + byte
    pair = tl.load(packed + at, mask=inside, other=0).to(tl.int32)
    block = at // 32  # 64 weights, so 32 bytes, share a scale
    if NESTED:
        level = tl.load(scales + block, mask=inside, other=0).to(tl.int32)
        scale = tl.load(scale_code + level) * tl.load(scale_scales + block // 256, mask=inside, other=0.0)
        scale += tl.load(offset)
    else:
        scale = tl.load(scales + block, mask=inside, other=0.0)
    return tl.load(code + (pair >> 4)) * scale, tl.load(code + (pair & 15)) * scale


def state_parts(state: "object") -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, bool]:
    """Code, scales, and the scales' own code, scales and offset if they are quantised too."""
    scales = state.absmax  # type: ignore[attr-defined]
    if not state.nested:  # type: ignore[attr-defined]
        return state.code, scales, scales, scales, scales, False  # type: ignore[attr-defined]
    nested = state.state2  # type: ignore[attr-defined]
    return state.code, scales, nested.code, nested.absmax, state.offset, True  # type: ignore[attr-defined]


@triton.jit
def _unpack_kernel(
    packed, code, scales, scale_code, scale_scales, offset, out, K, out_stride,
    NESTED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    byte = tl.program_id(1) * (BLOCK // 2) + tl.arange(0, BLOCK // 2)
    inside = byte < K // 2
    high, low = dequantised(
        packed, code, scales, scale_code, scale_scales, offset, row, byte, inside, K, NESTED
    )
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + row * out_stride + column, tl.interleave(high, low), mask=column < K)


@triton.jit
def _sides_kernel(
    first, second, third, out, N, out_stride, end_first, end_second, r_first, r_second, r_third,
    scale_first, scale_second, scale_third, WIDTH: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)[:, None]
    column = tl.arange(0, BLOCK)[None, :]
    mine = (row < end_first) & (column < r_first)
    value = tl.load(first + row * r_first + column, mask=mine, other=0.0) * scale_first
    lower, left = row - end_first, column - r_first
    mine = (lower >= 0) & (row < end_second) & (left >= 0) & (left < r_second)
    value += tl.load(second + lower * r_second + left, mask=mine, other=0.0) * scale_second
    lower, left = row - end_second, left - r_second
    mine = (lower >= 0) & (row < N) & (left >= 0) & (left < r_third)
    value += tl.load(third + lower * r_third + left, mask=mine, other=0.0) * scale_third
    tl.store(out + row * out_stride + column, value, mask=(row < N) & (column < WIDTH))


def write_sides(members: list[tuple[Tensor | None, float]], rows: list[int], out: Tensor) -> None:
    """Write LoRA's B matrices, scaled, on the block diagonal of out (N, R), and zeros beside them.

    Args:
        members: up to three of (B (n, r) float32 or None, scale); each takes the next n rows and r columns.
        rows: n of each.
        out: columns of a wider matrix.
    """
    found = [(out, 0, 0.0) if b is None else (b, b.shape[1], scale) for b, scale in members]
    found += [(found[0][0], 0, 0.0)] * (3 - len(found))
    ends = [rows[0], sum(rows[:2])]
    pointers, ranks, scales = zip(*found, strict=True)
    _sides_kernel[(triton.cdiv(out.shape[0], 16),)](
        *pointers, out, out.shape[0], out.stride(0), *ends, *ranks, *scales,
        WIDTH=out.shape[1], BLOCK=triton.next_power_of_2(out.shape[1]), ROWS=16,
    )  # fmt: skip


@triton.jit
def _stack_kernel(
    first, second, third, out, N, K, end_first, end_second, end_third, BLOCK: tl.constexpr, ROWS: tl.constexpr
):
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)[:, None]
    column = (tl.program_id(1) * BLOCK + tl.arange(0, BLOCK))[None, :]
    inside = (row < N) & (column < K)
    value = tl.load(first + row * K + column, mask=inside & (row < end_first), other=0.0)
    mine = inside & (row >= end_first) & (row < end_second)
    value += tl.load(second + (row - end_first) * K + column, mask=mine, other=0.0)
    mine = inside & (row >= end_second) & (row < end_third)
    value += tl.load(third + (row - end_second) * K + column, mask=mine, other=0.0)
    tl.store(out + row * K + column, value, mask=inside)


def stack_rows(parts: list[Tensor], rows: int, dtype: torch.dtype) -> Tensor:
    """Up to three (r, K) float32 above one another, and zeros below, as (rows, K) of another dtype."""
    columns = parts[0].shape[1]
    out = torch.empty(rows, columns, dtype=dtype, device=parts[0].device)
    padded = [*parts, parts[0], parts[0]][:3]
    heights = [*(p.shape[0] for p in parts), 0, 0]
    ends = [sum(heights[:1]), sum(heights[:2]), sum(heights[:3])]
    _stack_kernel[(triton.cdiv(rows, 2), triton.cdiv(columns, 1024))](
        *padded, out, rows, columns, *ends, BLOCK=1024, ROWS=2
    )
    return out


def unpack(packed: Tensor, state: "object", out: Tensor) -> None:
    """Write the dequantised weight into out (N, K), whose rows may lie apart. K is a multiple of 64."""
    rows, columns = out.shape
    *parts, nested = state_parts(state)
    _unpack_kernel[(rows, triton.cdiv(columns, 2048))](
        packed, *parts, out, columns, out.stride(0), nested, 2048
    )
