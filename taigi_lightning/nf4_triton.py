"""Unpack a double-quantised NF4 weight straight into the columns of a wider matrix, in one pass."""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _unpack_kernel(
    packed, code, scales, scale_code, scale_scales, offset, out, K, out_stride,
    NESTED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    byte = tl.program_id(1) * (BLOCK // 2) + tl.arange(0, BLOCK // 2)
    inside = byte < K // 2
    at = row * (K // 2) + byte
    pair = tl.load(packed + at, mask=inside, other=0).to(tl.int32)
    block = at // 32  # 64 weights, so 32 bytes, share a scale
    if NESTED:
        level = tl.load(scales + block, mask=inside, other=0).to(tl.int32)
        scale = tl.load(scale_code + level) * tl.load(scale_scales + block // 256, mask=inside, other=0.0)
        scale += tl.load(offset)
    else:
        scale = tl.load(scales + block, mask=inside, other=0.0)
    high = tl.load(code + (pair >> 4)) * scale
    low = tl.load(code + (pair & 15)) * scale
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + row * out_stride + column, tl.interleave(high, low), mask=column < K)


@triton.jit
def _side_kernel(
    lora_b, out, out_stride, first, scale, RANK: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    mine = (column >= first) & (column < first + RANK)
    value = tl.load(lora_b + row * RANK + column - first, mask=mine, other=0.0) * scale
    tl.store(out + row * out_stride + column, value, mask=column < WIDTH)


def write_side(lora_b: Tensor | None, scale: float, first: int, out: Tensor) -> None:
    """Write scale * lora_b (N, r) into columns first.. of out (N, R), and zeros into the others."""
    rows, width = out.shape
    rank = 0 if lora_b is None else lora_b.shape[1]
    source = out if lora_b is None else lora_b
    block = triton.next_power_of_2(width)
    _side_kernel[(rows,)](source, out, out.stride(0), first, scale, rank, width, block, num_warps=1)


def unpack(packed: Tensor, state: "object", out: Tensor) -> None:
    """Write the dequantised weight into out (N, K), whose rows may lie apart. K is a multiple of 64."""
    rows, columns = out.shape
    nested = state.state2 if state.nested else None  # type: ignore[attr-defined]
    scales = state.absmax  # type: ignore[attr-defined]
    _unpack_kernel[(rows, triton.cdiv(columns, 2048))](
        packed, state.code, scales, scales if nested is None else nested.code,  # type: ignore[attr-defined]
        scales if nested is None else nested.absmax,
        scales if nested is None else state.offset,  # type: ignore[attr-defined]
        out, columns, out.stride(0), nested is not None, 2048,
    )  # fmt: skip
