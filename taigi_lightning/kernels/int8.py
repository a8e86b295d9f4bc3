"""Matrix products in 8-bit integers of rotated rows, their scales, and what they need of a machine.

y = x W^T = (x R) (W R)^T for any rotation R of the dimension that is summed over. R turns each 64 values into their
Walsh-Hadamard transform, an eighth of sums and differences of them, so that no single large value of a row, of which
real activations have many, makes all others small beside it. Then a row is rounded to 255 equal steps between its
largest absolute values: of a real model's products that costs 1 to 1.3 %, where e4m3 costs 3.7 %
(tests/benchmarks/LOG.md). Ashkboos et al., QuaRot, 2024 (arXiv:2404.00456), rotate for the same reason.

Sums are exact, in 32-bit integers, so what a GPU computes is emulated elsewhere by multiplying in float32. The
functions are those of `fp8.py`.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import bitsandbytes as bnb
import torch
from torch import Tensor

from taigi_lightning.kernels.card_fault import card_fault
from taigi_lightning.kernels.triton_support import kernel_fault, triton_fault

DTYPE = torch.int8
STEPS = 127  # on either side of zero
BLOCK = 64  # values that are rotated together; as many weights share a scale in 4 bits
ALIGNMENT = BLOCK  # both sides of a weight must be its multiples: they are rotated along either
LONGEST = (2**31 - 1) // STEPS**2  # of sums that fit 32 bits
EIGHT = 8.0  # the root of that: by so much sums and differences are too large for a rotation
SMALLEST = 1e-30  # a row of zeros is divided by this


def fault(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why products cannot be in int8 on a device where all else is in some dtype, or None if they can."""
    others = "the kernel that multiplies it is for NVIDIA cards"
    return card_fault("int8", device, dtype, others) or kernel_fault(triton_fault())


@cache
def hadamard(device: torch.device, dtype: torch.dtype) -> Tensor:
    """(64, 64) of 1 and -1, symmetric, its rows at right angles: Sylvester's construction."""
    found = torch.ones(1, 1)
    while found.shape[0] < BLOCK:
        found = torch.cat([torch.cat([found, found], 1), torch.cat([found, -found], 1)])
    return found.to(device, dtype)


def transformed(x: Tensor) -> Tensor:
    """Sums and differences of each 64 values of x's rows (M, K), float32: eight times the rotated values."""
    wide = x.float().reshape(x.shape[0], x.shape[1] // BLOCK, BLOCK)
    return (wide @ hadamard(x.device, torch.float32)).reshape(x.shape)


def scale_of(amax: Tensor) -> Tensor:
    """By what int8 values are multiplied to be rotated ones again, float32; amax: the largest of `transformed`."""
    return amax.clamp(min=SMALLEST) / (STEPS * EIGHT)


def rounded(values: Tensor, scale: Tensor) -> Tensor:
    """What `transformed` gave, in int8."""
    return torch.floor(values / (scale * EIGHT) + 0.5).to(DTYPE)


def quantise_rows(x: Tensor, fused: bool = False) -> tuple[Tensor, Tensor]:
    """x (M, K), its rows perhaps apart, rotated and in int8, and the scale of each row, float32 (M, 1).

    The scale of a row that holds something not finite is not finite.
    """
    if fused and x.is_cuda:
        from taigi_lightning.kernels import int8_triton

        return int8_triton.quantise_rows(x)
    values = transformed(x)
    scale = scale_of(values.abs().amax(1, keepdim=True))
    return rounded(values, scale), scale


def product(
    x: Tensor,
    x_scale: Tensor,
    w: Tensor,
    w_scale: Tensor,
    dtype: torch.dtype,
    beside: tuple[Tensor, Tensor] | None = None,
    fused: bool = False,
) -> Tensor:
    """y (M, N) in dtype, of x (M, K) and w (N, K) in int8 with their rows' scales (M, 1) and (N, 1), float32.

    Args:
        beside: h (M, R) and b (N, R) in dtype, of which h b^T is added before y is rounded to dtype.
    """
    if fused and x.is_cuda:
        from taigi_lightning.kernels import int8_triton

        return int8_triton.product(x, x_scale, w, w_scale, dtype, beside)
    y = (x.float() @ w.float().t()) * x_scale * w_scale.t()
    if beside is not None:
        y = y.addmm_(beside[0].float(), beside[1].float().t())
    return y.to(dtype)


def largest(packed: Tensor, state: Any, fused: bool = False) -> tuple[Tensor, Tensor]:
    """The largest absolute values of an NF4 weight (N, K), `transformed` along K, of each row (N,), and of its
    transpose, transformed along N (K,); float32."""
    if fused and packed.is_cuda:
        from taigi_lightning.kernels import int8_triton

        return int8_triton.largest(packed, state)
    whole = bnb.functional.dequantize_4bit(packed, state)
    rows, columns = (transformed(w).abs().amax(1) for w in (whole, whole.t()))
    return rows, columns


def write(
    packed: Tensor, state: Any, scale: Tensor, out: Tensor, transposed: bool, fused: bool = False
) -> None:
    """Write an NF4 weight W (N, K), rotated and in int8, or its transpose, rotated along N, with the scale (rows, 1) of
    each row of out."""
    if fused and out.is_cuda:
        from taigi_lightning.kernels import int8_triton

        int8_triton.write(packed, state, scale, out, transposed)
        return
    whole = bnb.functional.dequantize_4bit(packed, state)
    out.copy_(rounded(transformed(whole.t() if transposed else whole), scale))
