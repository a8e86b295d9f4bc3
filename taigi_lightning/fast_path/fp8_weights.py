"""Frozen 4-bit weights of a group of projections, multiplied in fp8: see `kernels/fp8.py` for the scales.

The forward product sums over inputs and reads W (N, K); the gradient of the inputs sums over outputs and reads its
transpose (K, N), since the matrix units read fp8 along the sum alone. Either is made of the 4 bits when it is needed,
in one kernel, or both are held, which takes what one copy in 16 bits would.
"""

from __future__ import annotations

from collections.abc import Sequence

import bitsandbytes as bnb
import torch
from torch import Tensor

from taigi_lightning.fast_path.lora_linear import LoraLinear
from taigi_lightning.kernels.fp8 import ALIGNMENT, E4M3, fp8_product, power_of_two_scale, quantise_rows

BLOCK = 64  # weights that share a scale in 4 bits


def stays_in_16_bits(members: Sequence[LoraLinear]) -> str | None:
    """Why a group's products are not made in fp8, or None if they can be."""
    inputs = members[0].in_features
    if not all(m.packed for m in members):
        return "its weights are not in 4 bits"
    if any(m.base.weight.quant_state.blocksize != BLOCK for m in members):
        return f"its 4-bit blocks are not of {BLOCK} weights"
    if inputs % BLOCK or any(m.out_features % ALIGNMENT for m in members):
        return f"its inputs are no multiple of {BLOCK}, or its outputs none of {ALIGNMENT}"
    return None


class Fp8Weights:
    """The stacked weights W (N, K) of projections that read one input."""

    def __init__(self, members: Sequence[LoraLinear], fused: bool) -> None:
        self._members, self._fused = members, fused
        self._inputs = members[0].in_features
        self._outputs = sum(m.out_features for m in members)
        self._scales: tuple[Tensor, Tensor] | None = None
        self._held: dict[bool, Tensor] = {}  # whether transposed

    def keep(self, forward: bool, backward: bool) -> None:
        """Hold the weights from now on, or their transpose, or both, as products will read them."""
        wanted = [transposed for transposed, read in ((False, forward), (True, backward)) if read]
        self._held = {transposed: self._matrix(transposed) for transposed in wanted}

    def drop(self) -> None:
        """Make them anew for each product."""
        self._held = {}

    def forward(self, x: Tensor) -> Tensor:
        """x W^T (M, N) from x (M, K), in its dtype."""
        return self._product(x, transposed=False)

    def backward(self, grad: Tensor) -> Tensor:
        """grad W (M, K) from grad (M, N), in its dtype."""
        return self._product(grad, transposed=True)

    def _product(self, x: Tensor, transposed: bool) -> Tensor:
        matrix = self._held[transposed] if transposed in self._held else self._matrix(transposed)
        return fp8_product(*quantise_rows(x, self._fused), matrix, self._scale(transposed), x.dtype)

    def _scale(self, transposed: bool) -> Tensor:
        """Of each row of W (N, 1), or of each of its columns (K, 1): found once, since the weights never change."""
        device = self._members[0].device
        if self._scales is None or self._scales[0].device != device:
            largest = [_block_maxima(m) for m in self._members]
            rows = torch.cat([found.amax(1) for found in largest])
            columns = torch.stack([found.amax(0) for found in largest]).amax(0).repeat_interleave(BLOCK)
            self._scales = power_of_two_scale(rows)[:, None], power_of_two_scale(columns)[:, None]
        return self._scales[transposed]

    def _matrix(self, transposed: bool) -> Tensor:
        """W (N, K) or its transpose (K, N) in e4m3."""
        scale, device = self._scale(transposed), self._members[0].device
        shape = (self._inputs, self._outputs) if transposed else (self._outputs, self._inputs)
        matrix = torch.empty(shape, dtype=E4M3, device=device)
        row = 0
        for member in self._members:
            rows = slice(row, row + member.out_features)
            if transposed:
                self._write(member, scale, matrix[:, rows], transposed)
            else:
                self._write(member, scale[rows], matrix[rows], transposed)
            row += member.out_features
        return matrix

    def _write(self, member: LoraLinear, scale: Tensor, out: Tensor, transposed: bool) -> None:
        weight = member.base.weight
        if self._fused and out.is_cuda:
            from taigi_lightning.kernels import fp8_triton

            write = fp8_triton.unpack_columns if transposed else fp8_triton.unpack_rows
            write(weight.data, weight.quant_state, scale, out)
            return
        whole = bnb.functional.dequantize_4bit(weight.data, weight.quant_state).float()
        out.copy_((whole.t() if transposed else whole).div_(scale).to(E4M3))


def _block_maxima(member: LoraLinear) -> Tensor:
    """The largest absolute value of each 4-bit block, float32 (N, K / 64): its scale, for the code ends at 1."""
    state = member.base.weight.quant_state
    found: Tensor = state.absmax
    if state.nested:
        found = bnb.functional.dequantize_blockwise(found, state.state2) + state.offset
    return found.float().abs().view(member.out_features, -1)
