"""The directions along which an input of projections is strongest, whose part of a product stays in 16 bits.

Most of a real model's activations lies along a few directions that all its tokens share: of inputs with 576 values, 64
directions hold 0.86 to 0.96 of the squares (tests/benchmarks/LOG.md). With P those directions as rows and h = x P^T,

    y = x W^T = (x - h P) W^T + h (W P^T)^T                    # (M, N)

for any P at all. The first product is in 8 bits, of rows that are smaller and have no large values that return; what
the second multiplies is added in 16 bits, beside LoRA's. Li et al., SVDQuant, 2024 (arXiv:2411.05007), likewise keep a
part of low rank in 16 bits, of the weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import is_not
from typing import Any

import torch
from torch import Tensor

from taigi_lightning.fast_path.lora_linear import LoraLinear
from taigi_lightning.kernels.matmul import STRONG

FEWEST = 4 * STRONG  # rows of an input in which directions are looked for
MOST = 2048  # of twice as many rows or more, every n-th is looked at, so that this many are or a few more
ROUNDS = 4  # of subspace iteration: one more changes a product's error by less than a hundredth of it


class StrongDirections:
    """Those of one input (M, K) and what its projections make of them (N, R).

    Attributes:
        directions: P (R, K), found in the first input of enough rows, or put there; None before.
    """

    def __init__(self, members: Sequence[LoraLinear], fused: bool) -> None:
        self._members, self._fused = members, fused
        self.directions: Tensor | None = None
        self._found: tuple[Tensor, Tensor] | None = None  # P as inputs are, and W P^T (N, R)
        self._states: list[Any] = []  # bitsandbytes' of W then: PEFT's merging makes new ones

    def missing_bytes(self, element_size: int) -> int:
        """Bytes that they will take, but do not yet."""
        sides = self._members[0].in_features + sum(m.out_features for m in self._members)
        return STRONG * sides * element_size if self._found is None else 0

    def use(self, directions: Tensor | None) -> None:
        """Split inputs along P (R, K) from now on, as a run did before it stopped; None: look for them again."""
        self.directions, self._found = directions, None

    def split(
        self, x: Tensor, beside: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """What is left of x (M, K), and h (M, R') and b (N, R') of which h b^T is to be added to its product.

        Args:
            beside: what is to be added anyway, in the same form.
        """
        if self.directions is None and x.shape[0] >= FEWEST:
            directions = strongest(x, STRONG).to(x.dtype)
            self.directions = directions if directions.isfinite().all() else None
        if self.directions is None:
            return x, beside
        directions, products = self._as(x)
        along = x @ directions.t()
        rest = torch.addmm(x, along, directions, alpha=-1)
        if beside is None:
            return rest, (along, products)
        return rest, (torch.cat([beside[0], along], 1), torch.cat([beside[1], products], 1))

    def _as(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """P in the dtype of x, and W P^T of the weights that there are."""
        assert self.directions is not None
        states, found = [m.base.weight.quant_state for m in self._members], self._found
        as_x = found is not None and (found[0].device, found[0].dtype) == (x.device, x.dtype)
        if found is None or not as_x or any(map(is_not, states, self._states)):
            self.directions = self.directions.to(x)
            found = self._found = self.directions, self._products(self.directions)
            self._states = states
        return found

    def _products(self, directions: Tensor) -> Tensor:
        """W P^T (N, R)."""
        parts = []
        for member in self._members:
            held = member.base.weight.data  # where weights are dequantised, it may wait on the host
            member.send_packed(directions.device)
            shape = (member.out_features, member.in_features)
            whole = torch.empty(shape, dtype=directions.dtype, device=directions.device)
            member.unpack(whole, self._fused)
            member.base.weight.data = held
            parts.append(whole @ directions.t())
        return torch.cat(parts)


def strongest(x: Tensor, count: int) -> Tensor:
    """The count directions, (count, K) at right angles, that hold most of the squares of x (M, K): subspace iteration
    from fixed ones. count is at most K."""
    rows = x[:: max(1, x.shape[0] // MOST)].float()
    start = torch.randn(x.shape[1], count, generator=torch.Generator().manual_seed(0))
    basis = start.to(x.device)
    for _ in range(ROUNDS):
        basis = torch.linalg.qr(rows.t() @ (rows @ basis)).Q
    return basis.t().contiguous()
