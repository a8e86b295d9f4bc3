"""Matrix products in 8-bit floating point (e4m3), their scales, and what they need of a machine.

A product y = x W^T keeps one scale for each row of x and one for each row of W: scales must be constant along the
dimension that is summed over, so W's transpose, in the gradient of x, has scales of its own. All are powers of two:
dividing by them rounds nothing, so W and its transpose hold the same numbers (but for such as are below some 2^-14 of
their row's or their column's largest), and what a GPU computes is emulated exactly elsewhere (sums aside) by rounding
to e4m3 and multiplying in float32. `int8.py` offers the same functions.
"""

from __future__ import annotations

from typing import Any

import bitsandbytes as bnb
import torch
from torch import Tensor

from taigi_lightning.kernels.card_fault import card_fault

DTYPE = torch.float8_e4m3fn  # 3 bits of mantissa, largest 448 = 1.75 * 2^8
ALIGNMENT = 16  # both sides of a weight must be its multiples
LONGEST = 2**31  # of sums: no limit
BLOCK = 64  # weights that share a scale in 4 bits
FAST_ACCUMULATION = False  # keep partial sums in fewer bits than float32


def fault(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why products cannot be in fp8 on a device where all else is in some dtype, or None if they can."""
    others = "only NVIDIA cards of compute capability 8.9 or more multiply it"
    return card_fault("fp8", device, dtype, others)


def scale_of(amax: Tensor) -> Tensor:
    """The least powers of two, float32, that bring absolute values of at most amax (float32) within e4m3's 448.

    >>> scale_of(torch.tensor([448.0, 449.0, 0.4375, 0.0])).tolist()[:3]
    [1.0, 2.0, 0.0009765625]
    """
    bits = amax.contiguous().view(torch.int32)
    exponent = (bits >> 23) - 8 + ((bits & 0x7FFFFF) > 0x600000).to(torch.int32)
    return (exponent.clamp(min=1) << 23).view(torch.float32)


def quantise_rows(x: Tensor, fused: bool = False) -> tuple[Tensor, Tensor]:
    """x (M, K), its rows perhaps apart, in e4m3, and the scale of each row, float32 (M, 1)."""
    if fused and x.is_cuda:
        from taigi_lightning.kernels import fp8_triton

        return fp8_triton.quantise_rows(x)
    wide = x.float()
    scale = scale_of(wide.abs().amax(1, keepdim=True))
    return (wide / scale).to(DTYPE), scale


def product(
    x: Tensor,
    x_scale: Tensor,
    w: Tensor,
    w_scale: Tensor,
    dtype: torch.dtype,
    beside: tuple[Tensor, Tensor] | None = None,
    fused: bool = False,
) -> Tensor:
    """y (M, N) in dtype, of x (M, K) and w (N, K) in e4m3 with their rows' scales (M, 1) and (N, 1), float32.

    Sums are in float32. Emulated where `fault` finds a reason.

    Args:
        beside: h (M, R) and b (N, R) in dtype, of which h b^T is added.
    """
    if fault(x.device, dtype) is not None:
        y = ((x.float() * x_scale) @ (w.float() * w_scale).t()).to(dtype)
    else:
        y = torch._scaled_mm(
            x, w.t(), scale_a=x_scale, scale_b=w_scale.t(), out_dtype=dtype, use_fast_accum=FAST_ACCUMULATION
        )
    return y if beside is None else y.addmm_(beside[0], beside[1].t())


def largest(packed: Tensor, state: Any, fused: bool = False) -> tuple[Tensor, Tensor]:
    """What no absolute value of an NF4 weight (N, K) exceeds: of each row (N,), of each block of columns (K,); float32.

    A 4-bit block's scale is its largest absolute value, for the code ends at 1.
    """
    found: Tensor = state.absmax
    if state.nested:
        found = bnb.functional.dequantize_blockwise(found, state.state2) + state.offset
    blocks = found.float().abs().view(state.shape[0], -1)
    return blocks.amax(1), blocks.amax(0).repeat_interleave(BLOCK)


def write(
    packed: Tensor, state: Any, scale: Tensor, out: Tensor, transposed: bool, fused: bool = False
) -> None:
    """Write an NF4 weight W (N, K) in e4m3, or its transpose, divided by the scale (rows, 1) of each row of out."""
    if fused and out.is_cuda:
        from taigi_lightning.kernels import fp8_triton

        (fp8_triton.unpack_columns if transposed else fp8_triton.unpack_rows)(packed, state, scale, out)
        return
    whole = bnb.functional.dequantize_4bit(packed, state).float()
    out.copy_((whole.t() if transposed else whole).div_(scale).to(DTYPE))
