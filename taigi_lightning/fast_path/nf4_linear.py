"""Frozen 4-bit projections with LoRA: several that read one input are computed as one product.

With W the frozen weights stacked, A the LoRA A matrices stacked, B the scaled LoRA B matrices on a block
diagonal, x the input and d the same input with dropout, the group computes

    y = x W^T + (d A^T) B^T = [x | d A^T] [W | B]^T            # (M, N)

and the gradient of its input falls out of the same matrix: g [W | B] = [gradient of x | gradient of d A^T].
The 4-bit weights are dequantised into [W | B] inside the product and dropped after it. The projections of a group
share one dropout mask, where PEFT draws one for each; every mask is still independent Bernoulli noise.
An earlier stage's frozen update has columns of its own between the two (`frozen_columns.py`).
In 8 bits W is a matrix of its own (`eight_bit_weights.py`), and only what B multiplies is in 16.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from taigi_lightning.fast_path.eight_bit_weights import EightBitWeights, stays_in_16_bits
from taigi_lightning.fast_path.frozen_columns import FrozenColumns
from taigi_lightning.fast_path.lora_linear import LoraLinear
from taigi_lightning.fast_path.strong_directions import StrongDirections
from taigi_lightning.kernels.dropout import LoraGradient
from taigi_lightning.kernels.matmul import Matmul, format_of, forward_in_8_bits, strong_directions
from taigi_lightning.kernels.products import float32_product

ALIGNMENT = 8  # columns of LoRA's part: keeps every row of the joined matrices on 16 bytes


class ProjectionGroup:
    """Projections of one input, computed together. K inputs, N outputs in all, R LoRA columns, F frozen ones."""

    def __init__(self, modules: Sequence[nn.Module], fused: bool) -> None:
        self.members = [LoraLinear(module) for module in modules]
        self.fused = fused
        self.in_features = self.members[0].in_features
        self.out_features = sum(m.out_features for m in self.members)
        self.rank = -(-sum(m.rank for m in self.members) // ALIGNMENT) * ALIGNMENT
        self.frozen = FrozenColumns([m.base for m in self.members], ALIGNMENT)
        self.plain = self.in_features + self.frozen.count  # columns before LoRA's
        self.width = self.plain + self.rank
        self.dropout = max(m.dropout for m in self.members)
        self.scale = self._common_scale()
        biases = [m.base.bias for m in self.members]
        self.bias = None if all(b is None for b in biases) else self._join(biases)
        self.device = self.members[0].device
        self.eight_bit: EightBitWeights | None = None  # W, if products with it are in 8 bits
        self.forward_in_8_bits = False  # those of the forward pass too
        self._strong: StrongDirections | None = None  # found once, whatever products are in meanwhile
        self.resident: Tensor | None = (
            None  # [W | Bf | B], if it is held; without W where no product in 16 bits reads it
        )
        self._resident_a: Tensor | None = None

    def _join(self, biases: Sequence[Tensor | None]) -> Tensor:
        like = next(b for b in biases if b is not None)
        pairs = zip(self.members, biases, strict=True)
        return torch.cat([like.new_zeros(m.out_features) if b is None else b.detach() for m, b in pairs])

    def _common_scale(self) -> float | Tensor:
        """LoRA's scale; where members have different ones, that of each column (R,)."""
        scales = {m.scale for m in self.members if m.lora is not None}
        if len(scales) <= 1:
            return next(iter(scales), 1.0)
        columns = [m.scale for m in self.members for _ in range(m.rank)]
        columns += [0.0] * (self.rank - len(columns))
        weight = self.members[0].base.weight
        dtype = weight.quant_state.dtype if self.members[0].packed else weight.dtype
        return torch.tensor(columns, dtype=dtype, device=self.members[0].device)

    def parameters(self) -> list[nn.Parameter]:
        """A and B of each member that has LoRA, in order: the order `gradients` answers in."""
        return [p for m in self.members if m.lora is not None for p in m.lora]

    def compute_in(self, matmul: Matmul) -> None:
        """Make the products with the frozen weights in 8 bits from now on, where it can be, or in 16 again."""
        if self.resident is not None:
            self.drop_unpacked()
        name = format_of(matmul)
        if name is not None and stays_in_16_bits(self.members, name) is not None:
            name = None
        strong = None
        if name is not None and strong_directions(matmul):
            strong = self._strong = self._strong or StrongDirections(self.members, self.fused)
        self.eight_bit = None if name is None else EightBitWeights(self.members, name, self.fused, strong)
        self.forward_in_8_bits = name is not None and forward_in_8_bits(matmul)

    def missing_bytes(self, element_size: int) -> int:
        """Bytes that the input's strongest directions will take, if products want them, but do not yet."""
        return 0 if self._strong is None else self._strong.missing_bytes(element_size)

    def unpacked_bytes(self, element_size: int, backward: bool = True) -> int:
        """Bytes that `keep_unpacked` takes, of weights in 16 bits or in 8."""
        each = (1 if self.forward_in_8_bits else element_size) + (
            1 if self.eight_bit is not None and backward else 0
        )
        sides = self.width - self.in_features
        return self.out_features * (self.in_features * each + sides * element_size)

    def keep_unpacked(self, dtype: torch.dtype, packed_on_host: bool, backward: bool = True) -> None:
        """Hold the frozen weights dequantised from now on; packed, they wait on the host or where they are.

        Args:
            backward: there will be a backward pass, for which 8 bits are held transposed.
        """
        self.resident = self._new_sides(dtype) if self.forward_in_8_bits else self._unpacked(dtype)
        if self.eight_bit is not None:
            self.eight_bit.keep(self.forward_in_8_bits, backward)
        for member in self.members if packed_on_host else ():
            member.send_packed("cpu")

    def drop_unpacked(self) -> None:
        """Dequantise the weights for each product again."""
        self.resident = self._resident_a = None
        if self.eight_bit is not None:
            self.eight_bit.drop()
        for member in self.members:
            member.send_packed(self.device)

    def _unpacked(self, dtype: torch.dtype) -> Tensor:
        joined = torch.empty(self.out_features, self.width, dtype=dtype, device=self.device)
        row = 0
        for member in self.members:
            member.unpack(joined[row : row + member.out_features, : self.in_features], self.fused)
            row += member.out_features
        self.frozen.write_b(joined[:, self.in_features :])
        return joined

    def _new_sides(self, dtype: torch.dtype) -> Tensor:
        """(N, F + R) with Bf in it and headroom for B."""
        sides = torch.empty(self.out_features, self.width - self.in_features, dtype=dtype, device=self.device)
        self.frozen.write_b(sides)
        return sides

    def _sides(self, dtype: torch.dtype, fresh: bool = True) -> Tensor:
        """[Bf | B], (N, F + R), beside weights in 8 bits; as `_joined`."""
        held = self.resident
        sides = (
            self._new_sides(dtype)
            if held is None
            else held[:, held.shape[1] - self.width + self.in_features :]
        )
        if self.rank and (fresh or self.resident is None):
            self._write_sides(sides[:, self.frozen.count :])
        return sides

    def _joined(self, dtype: torch.dtype, fresh: bool = True) -> Tensor:
        """[W | Bf | B], (N, K + F + R). Weights held dequantised have B beside them since forward, unless fresh."""
        joined = self._unpacked(dtype) if self.resident is None else self.resident
        if self.rank and (fresh or self.resident is None):
            self._write_sides(joined[:, self.plain :])
        return joined

    def _write_sides(self, side: Tensor) -> None:
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

    def _stacked_a(self, dtype: torch.dtype, fresh: bool = True) -> Tensor:
        """A, (R, K), zero rows at its end where R was rounded up. Where weights are held, so is forward's A."""
        if self._resident_a is not None and not fresh:
            return self._resident_a
        parts = [m.lora[0].detach() for m in self.members if m.lora is not None]
        if self.fused and parts[0].is_cuda:
            from taigi_lightning.kernels.nf4_triton import stack_rows

            stacked = stack_rows(parts, self.rank, dtype)
        else:
            missing = self.rank - sum(p.shape[0] for p in parts)
            stacked = torch.cat([*parts, parts[0].new_zeros(missing, self.in_features)]).to(dtype)
        self._resident_a = stacked if self.resident is not None else None
        return stacked

    def buffer(self, like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Uninitialised (M, K + F + R) for the input and, beside it, the updates' hidden activations."""
        return like.new_empty(like.shape[0], self.width, dtype=dtype)

    def sides(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Where LoRA's hidden activations go in inputs (M, K + F + R), and A (R, K), which makes them of d (M, K)."""
        return inputs[:, self.plain :], self._stacked_a(inputs.dtype)

    def forward(self, inputs: Tensor, dropped: Tensor) -> tuple[Tensor, Tensor]:
        """As `multiply`, from inputs (M, K + F + R) with just x in its first K columns, and d (M, K)."""
        if self.rank:
            hidden, a = self.sides(inputs)
            torch.mm(dropped, a.t(), out=hidden)
        return self.multiply(inputs)

    def multiply(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """y (M, N) and LoRA's hidden activations times LoRA's scale (M, R).

        inputs (M, K + F + R) holds x in its first K columns and d A^T in its last; the rest is filled here.
        """
        return self.product(inputs), inputs[:, self.plain :] * self.scale

    def multiply_apart(self, inputs: Tensor) -> tuple[list[Tensor], Tensor]:
        """As `multiply`, in 16 bits, but with each member's y (M, Ni) in memory of its own.

        So one can be kept without the others, and changed in place.
        """
        self.frozen.fill(inputs)
        sizes = [member.out_features for member in self.members]
        weights = torch.split(self._joined(inputs.dtype), sizes)
        biases = [None] * len(sizes) if self.bias is None else torch.split(self.bias, sizes)
        results = [
            torch.nn.functional.linear(inputs, weight, bias)
            for weight, bias in zip(weights, biases, strict=True)
        ]
        return results, inputs[:, self.plain :] * self.scale

    def product(self, inputs: Tensor) -> Tensor:
        """[x | x Af^T | d A^T] [W | Bf | B]^T and the biases, (M, N), from inputs as for `multiply`."""
        self.frozen.fill(inputs)
        if self.eight_bit is None or not self.forward_in_8_bits:
            return torch.nn.functional.linear(inputs, self._joined(inputs.dtype), self.bias)
        beside = None
        if self.width > self.in_features:
            beside = inputs[:, self.in_features :], self._sides(inputs.dtype)
        y = self.eight_bit.forward(inputs[:, : self.in_features], beside)
        return y if self.bias is None else y.add_(self.bias)

    def predict(self, inputs: Tensor) -> Tensor:
        """y (M, N) as from `forward`, without dropout."""
        if self.rank:
            hidden, a = self.sides(inputs)
            torch.mm(inputs[:, : self.in_features], a.t(), out=hidden)
        return self.product(inputs)

    def add_product(self, onto: Tensor, inputs: Tensor) -> Tensor | None:
        """Add `product` to onto (M, N) as it is made; where that cannot be, return it."""
        if self.forward_in_8_bits or onto.dtype != inputs.dtype:
            return self.product(inputs)
        self.frozen.fill(inputs)
        onto.addmm_(inputs, self._joined(inputs.dtype).t())
        if self.bias is not None:
            onto.add_(self.bias)
        return None

    def backward(self, grad: Tensor, with_mask: bool) -> tuple[Tensor, LoraGradient | None, Tensor]:
        """From the gradient of y (M, N): of x (M, K), of x through LoRA before its mask, of hidden (M, R).

        Without a mask the second is None, already added into the first.
        """
        if self.eight_bit is None:
            both = grad @ self._joined(grad.dtype, fresh=False)
            direct, sides = both[:, : self.in_features], both[:, self.in_features :]
        else:
            direct, sides = self.eight_bit.backward(grad), grad @ self._sides(grad.dtype, fresh=False)
        self.frozen.add_gradient(direct, sides)
        hidden_grad = sides[:, self.frozen.count :]
        if not self.rank:
            return direct, None, hidden_grad
        a = self._stacked_a(grad.dtype, fresh=False)
        if with_mask:
            return direct, (hidden_grad, a), hidden_grad
        direct.addmm_(hidden_grad, a)
        return direct, None, hidden_grad

    def hidden_gradient(self, grad: Tensor) -> Tensor:
        """The gradient of hidden (M, R) alone: for the first layer, whose input needs none."""
        if self.eight_bit is None:
            return grad @ self._joined(grad.dtype, fresh=False)[:, self.plain :]
        return grad @ self._sides(grad.dtype, fresh=False)[:, self.frozen.count :]

    def gradients(self, grad: Tensor, hidden: Tensor, grad_a: Tensor) -> list[Tensor]:
        """Gradients of `parameters()`, in float32, from that of y, `multiply`'s hidden and that of A (R, K)."""
        if not self.rank:
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
