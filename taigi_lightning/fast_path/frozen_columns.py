"""An earlier stage's update, frozen beside the 4-bit weights of projections that read one input.

`model/frozen_update.py` puts it there. With Af the updates' A stacked and Bf their scaled B on a block diagonal,
it takes F columns between the weights' and LoRA's: [x | x Af^T | d A^T] [W | Bf | B]^T. It reads x itself, as the
weights do, and nothing of it is dropped or trained.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def frozen_rank(linear: Any) -> int:
    """The rank of the update that stays frozen beside a Linear; 0 without one."""
    update = getattr(linear, "frozen_update", None)
    return 0 if update is None else int(update.a.shape[0])


class FrozenColumns:
    """The frozen updates of a group of Linears: K inputs, N outputs in all, F columns, 0 without an update."""

    def __init__(self, linears: Sequence[Any], alignment: int) -> None:
        self._linears, self._inputs = linears, linears[0].in_features
        self._found = [getattr(linear, "frozen_update", None) for linear in linears]
        self._ranks = [frozen_rank(linear) for linear in linears]
        self.count = -(-sum(self._ranks) // alignment) * alignment
        self._a: Tensor | None = None

    def write_b(self, sides: Tensor) -> None:
        """Write Bf into sides (N, F + R): each Linear's rows have their own columns, the others zeros."""
        if not self.count:
            return
        side = sides[:, : self.count].zero_()
        row = column = 0
        for linear, update, rank in zip(self._linears, self._found, self._ranks, strict=True):
            if update is not None:
                side[row : row + linear.out_features, column : column + rank] = update.b.detach()
            row += linear.out_features
            column += rank

    def fill(self, inputs: Tensor) -> None:
        """Write x Af^T beside x in inputs (M, K + F + R)."""
        if self.count:
            x, out = inputs[:, : self._inputs], inputs[:, self._inputs : self._inputs + self.count]
            torch.mm(x, self._stacked_a(x).t(), out=out)

    def add_gradient(self, direct: Tensor, sides: Tensor) -> None:
        """Add to the gradient of x (M, K) what comes through the updates, of sides' (M, F + R) first columns."""
        if self.count:
            direct.addmm_(sides[:, : self.count], self._stacked_a(sides))

    def _stacked_a(self, like: Tensor) -> Tensor:
        """Af, (F, K), zero rows at its end where F was rounded up; stacked once, since it never changes."""
        if self._a is None or (self._a.dtype, self._a.device) != (like.dtype, like.device):
            parts = [update.a.detach() for update in self._found if update is not None]
            missing = self.count - sum(self._ranks)
            stacked = torch.cat([*parts, parts[0].new_zeros(missing, parts[0].shape[1])])
            self._a = stacked.to(like.device, like.dtype)
        return self._a
