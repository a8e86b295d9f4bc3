"""LoRA beside the frozen weights of projections that read one input: A stacked, B on a block diagonal.

Each projection's B has columns of its own and its rows alone, so that one product with all of them, [d A^T] B^T, gives
each projection its own update. Columns are rounded up, and what is added is zero.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from taigi_lightning.fast_path.lora_linear import LoraLinear
from taigi_lightning.kernels.products import float32_product


class LoraColumns:
    """LoRA of a group's projections: K inputs, N outputs in all, R columns.

    Args:
        members: the projections; those without LoRA have no columns.
        alignment: R is a multiple of it.
        fused: write A and B together in Triton.
    """

    def __init__(self, members: Sequence[LoraLinear], alignment: int, fused: bool) -> None:
        self.members, self.fused = members, fused
        self.count = -(-sum(m.rank for m in members) // alignment) * alignment  # R
        self.scale = self._common_scale()

    def _common_scale(self) -> float | Tensor:
        """LoRA's scale; where members have different ones, that of each column (R,)."""
        scales = {m.scale for m in self.members if m.lora is not None}
        if len(scales) <= 1:
            return next(iter(scales), 1.0)
        columns = [m.scale for m in self.members for _ in range(m.rank)]
        columns += [0.0] * (self.count - len(columns))
        weight = self.members[0].base.weight
        dtype = weight.quant_state.dtype if self.members[0].packed else weight.dtype
        return torch.tensor(columns, dtype=dtype, device=self.members[0].device)

    def parameters(self) -> list[nn.Parameter]:
        """A and B of each member that has LoRA, in order: the order `gradients` answers in."""
        return [p for m in self.members if m.lora is not None for p in m.lora]

    def write_b(self, side: Tensor) -> None:
        """Write B, scaled, into side (N, R): each member's rows have their own columns, and zeros beside them."""
        if self.fused and side.is_cuda:
            from taigi_lightning.kernels.nf4_triton import write_sides

            found = [(None if m.lora is None else m.lora[1].detach(), m.scale) for m in self.members]
            write_sides(found, [m.out_features for m in self.members], side)
            return
        side.zero_()
        row = column = 0
        for member in self.members:
            if member.lora is not None:
                place = side[row : row + member.out_features, column : column + member.rank]
                place.copy_(member.lora[1].detach() * member.scale)
            column += member.rank
            row += member.out_features

    def stacked_a(self, dtype: torch.dtype) -> Tensor:
        """A, (R, K), zero rows at its end where R was rounded up."""
        parts = [m.lora[0].detach() for m in self.members if m.lora is not None]
        if self.fused and parts[0].is_cuda:
            from taigi_lightning.kernels.nf4_triton import stack_rows

            return stack_rows(parts, self.count, dtype)
        missing = self.count - sum(p.shape[0] for p in parts)
        return torch.cat([*parts, parts[0].new_zeros(missing, parts[0].shape[1])]).to(dtype)

    def gradients(self, grad: Tensor, hidden: Tensor, grad_a: Tensor) -> list[Tensor]:
        """Gradients of `parameters()`, float32, from that of y (M, N), hidden, scaled (M, R), and that of A (R, K)."""
        if not self.count:
            return []
        trained = [m for m in self.members if m.lora is not None]
        parts_a = torch.split(grad_a[: sum(m.rank for m in trained)], [m.rank for m in trained])
        parts_b = self._gradients_of_b(grad, hidden)
        return [g for pair in zip(parts_a, parts_b, strict=True) for g in pair]

    def _gradients_of_b(self, grad: Tensor, hidden: Tensor) -> list[Tensor]:
        """Of each B, float32; members of one shape take one product together."""
        count, first = len(self.members), self.members[0]
        if count > 1 and len({(m.rank, m.out_features) for m in self.members}) == 1:
            of_outputs = grad.view(-1, count, first.out_features).permute(1, 2, 0)  # (n, N / n, M)
            by_member = hidden[:, : count * first.rank].view(-1, count, first.rank).transpose(0, 1)
            return list(float32_product(of_outputs, by_member).unbind())
        found = []
        row = column = 0
        for member in self.members:
            if member.lora is not None:
                rows, columns = slice(row, row + member.out_features), slice(column, column + member.rank)
                found.append(float32_product(grad[:, rows].t(), hidden[:, columns]))
            column += member.rank
            row += member.out_features
        return found
