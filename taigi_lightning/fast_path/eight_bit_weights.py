"""Frozen 4-bit weights of a group of projections, multiplied in 8 bits: `kernels/fp8.py`, or `kernels/int8.py`.

The forward product sums over inputs and reads W (N, K); the gradient of the inputs sums over outputs and reads its
transpose (K, N), since the matrix units read 8 bits along the sum alone. Either is made of the 4 bits when it is
needed, in one kernel, or both are held, which takes what one copy in 16 bits would. Without a backward pass the weights
that are held have their updates in them (`folded_updates.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import is_not
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from taigi_lightning.fast_path.folded_updates import Fingerprints, Written, round_with_updates, written
from taigi_lightning.fast_path.lora_linear import LoraLinear
from taigi_lightning.fast_path.strong_directions import StrongDirections
from taigi_lightning.kernels import fp8, int8
from taigi_lightning.kernels.matmul import Format, format_of

FORMATS: dict[Format, ModuleType] = {"fp8": fp8, "int8": int8}


def matmul_fault(matmul: str, device: torch.device, dtype: torch.dtype) -> str | None:
    """Why products cannot be made so on a device where all else is in some dtype, or None if they can."""
    name = format_of(matmul)
    fault: str | None = None if name is None else FORMATS[name].fault(device, dtype)
    return fault


def stays_in_16_bits(members: Sequence[LoraLinear], name: Format) -> str | None:
    """Why a group's products are not made in an 8-bit format, or None if they can be."""
    inputs, form = members[0].in_features, FORMATS[name]
    if not all(m.packed for m in members):
        return "its weights are not in 4 bits"
    if any(m.base.weight.quant_state.blocksize != form.BLOCK for m in members):
        return f"its 4-bit blocks are not of {form.BLOCK} weights"
    if inputs % form.BLOCK or any(m.out_features % form.ALIGNMENT for m in members):
        return f"its inputs are no multiple of {form.BLOCK}, or its outputs none of {form.ALIGNMENT}"
    if max(inputs, sum(m.out_features for m in members)) > form.LONGEST:
        return f"sums of more than {form.LONGEST} products do not fit 32 bits"
    return None


class EightBitWeights:
    """The stacked weights W (N, K) of projections that read one input.

    Args:
        strong: the directions of the input whose part of the forward product stays in 16 bits.
    """

    def __init__(
        self, members: Sequence[LoraLinear], name: Format, fused: bool, strong: StrongDirections | None = None
    ) -> None:
        self.members = members
        self._form, self._fused, self._strong = FORMATS[name], fused, strong
        self._inputs = members[0].in_features
        self._outputs = sum(m.out_features for m in members)
        self._scales: tuple[Tensor, Tensor] | None = None
        self._states: list[Any] = []  # bitsandbytes' of the weights that these are of
        self._held: dict[bool, Tensor] = {}  # whether transposed
        self.folded = False  # W is held with its updates added, once it has been needed
        self._added: tuple[Tensor, Written] | None = None  # its scales then, and which updates those are
        self._fingerprint: list[tuple[int, int]] | None = None  # of these, once it is known

    def keep(self, forward: bool, backward: bool) -> None:
        """Hold the weights from now on, or their transpose, or both, as products will read them."""
        self.drop()
        wanted = [transposed for transposed, read in ((False, forward), (True, backward)) if read]
        self._held = {transposed: self._matrix(transposed) for transposed in wanted}

    def keep_folded(self) -> None:
        """Hold the weights with their updates added, from now on: with those that there are when they are needed."""
        self.drop()
        self._held, self.folded = {False: self._empty(transposed=False)}, True

    def fold(self) -> bool:
        """Add the updates that there are now to weights held so, unless nothing counted has happened to them since they
        were added; whether they had to be."""
        now = written(self.members)
        if self._added is not None and self._added[1].same(now):
            return False
        # Should this break off, they are neither those of before nor others.
        self._added = self._fingerprint = None
        parts = torch.split(self._held[False], [m.out_features for m in self.members])
        scales = [
            round_with_updates(member, self._form, part, self._fused)
            for member, part in zip(self.members, parts, strict=True)
        ]
        self._added = torch.cat(scales), now
        return True

    def fold_others(self, fingerprint: list[tuple[int, int]], fresh: bool) -> bool:
        """Add the updates anew if those that were added had another fingerprint, or an unknown one; whether they had.

        Args:
            fingerprint: of those that there are.
            fresh: these are what was added.
        """
        known = fresh or self._fingerprint == fingerprint
        if not known:
            self._added = None
            self.fold()
        self._fingerprint = fingerprint
        return not known

    @property
    def folds(self) -> bool:
        """Whether updates may be added to held weights: what stays in 16 bits anyway takes them along."""
        return self._strong is None

    def drop(self) -> None:
        """Make them anew for each product."""
        self._held, self.folded = {}, False
        self._added = self._fingerprint = None

    def forward(self, x: Tensor, beside: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """x W^T (M, N) from x (M, K), in its dtype; beside: h (M, R) and b (N, R), of which h b^T is added."""
        if self._strong is not None:
            x, beside = self._strong.split(x, beside)
        return self._product(x, transposed=False, beside=beside)

    def backward(self, grad: Tensor) -> Tensor:
        """grad W (M, K) from grad (M, N), in its dtype."""
        return self._product(grad, transposed=True)

    def _product(self, x: Tensor, transposed: bool, beside: tuple[Tensor, Tensor] | None = None) -> Tensor:
        if self.folded and self._added is None:
            self.fold()
        its = self._scale(transposed) if self._added is None else self._added[0]
        matrix = self._held[transposed] if transposed in self._held else self._matrix(transposed)
        rounded, scale = self._form.quantise_rows(x, self._fused)
        y: Tensor = self._form.product(rounded, scale, matrix, its, x.dtype, beside, self._fused)
        return y

    def _scale(self, transposed: bool) -> Tensor:
        """Of each row of W (N, 1), or of each of its columns (K, 1): found once, and again of weights that were made
        anew, as PEFT's merging does: beyond their largest value 8 bits would wrap around. So is what is held then."""
        weights = [m.base.weight for m in self.members]
        states = [w.quant_state for w in weights]
        device = self.members[0].device
        known = self._scales
        if known is None or known[0].device != device or any(map(is_not, states, self._states)):
            found = [self._form.largest(w.data, w.quant_state, self._fused) for w in weights]
            rows = torch.cat([by_row for by_row, _ in found])
            columns = torch.stack([by_column for _, by_column in found]).amax(0)
            known = self._form.scale_of(rows)[:, None], self._form.scale_of(columns)[:, None]
            self._scales, self._states = known, states
            if self._held:
                self.keep(False in self._held, True in self._held)
        return known[transposed]

    def _matrix(self, transposed: bool) -> Tensor:
        """W (N, K) or its transpose (K, N) in 8 bits."""
        scale, matrix = self._scale(transposed), self._empty(transposed)
        row = 0
        for member in self.members:
            rows, weight = slice(row, row + member.out_features), member.base.weight
            out, its = (matrix[:, rows], scale) if transposed else (matrix[rows], scale[rows])
            self._form.write(weight.data, weight.quant_state, its, out, transposed, self._fused)
            row += member.out_features
        return matrix

    def _empty(self, transposed: bool) -> Tensor:
        shape = (self._inputs, self._outputs) if transposed else (self._outputs, self._inputs)
        return torch.empty(shape, dtype=self._form.DTYPE, device=self.members[0].device)


@torch.no_grad()
def with_updates(weights: Sequence[EightBitWeights], answer: Callable[[], Tensor]) -> Tensor:
    """What a pass answers with the updates that there are as it begins, of weights that are held with theirs added.

    Nothing waits for the device: what the host does not know of is asked before the pass, and read when the whole pass
    is queued. If it has changed, the pass is queued once more.
    """
    asked = Fingerprints([some.members for some in weights])
    fresh = [some.fold() for some in weights]
    found = answer()
    now = zip(weights, asked.read(), fresh, strict=True)
    changed = [some.fold_others(fingerprint, anew) for some, fingerprint, anew in now]
    return answer() if any(changed) else found
