"""Frozen 4-bit projections with LoRA: several that read one input are computed as one product.

With W the frozen weights stacked, A the LoRA A matrices stacked, B the scaled LoRA B matrices on a block
diagonal, x the input and d the same input with dropout, the group computes

    y = x W^T + (d A^T) B^T = [x | d A^T] [W | B]^T            # (M, N)

and the gradient of its input falls out of the same matrix: g [W | B] = [gradient of x | gradient of d A^T].
The 4-bit weights are dequantised into [W | B] inside the product and dropped after it. The projections of a group
share one dropout mask, where PEFT draws one for each; every mask is still independent Bernoulli noise.
LoRA's part is in `lora_columns.py`; an earlier stage's frozen update has columns of its own between the two
(`frozen_columns.py`).
In 8 bits W is a matrix of its own (`eight_bit_weights.py`), and only what B multiplies is in 16.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from taigi_lightning.fast_path.eight_bit_weights import EightBitWeights, stays_in_16_bits
from taigi_lightning.fast_path.frozen_columns import FrozenColumns
from taigi_lightning.fast_path.lora_columns import LoraColumns
from taigi_lightning.fast_path.lora_linear import LoraLinear
from taigi_lightning.fast_path.strong_directions import StrongDirections
from taigi_lightning.kernels.dropout import LoraGradient
from taigi_lightning.kernels.matmul import Matmul, format_of, forward_in_8_bits, strong_directions
from taigi_lightning.kernels.triton_support import triton_fault

ALIGNMENT = 8  # columns of LoRA's part: keeps every row of the joined matrices on 16 bytes


class ProjectionGroup:
    """Projections of one input, computed together. K inputs, N outputs in all, R LoRA columns, F frozen ones."""

    def __init__(self, modules: Sequence[nn.Module], fused: bool) -> None:
        self.members = [LoraLinear(module) for module in modules]
        self.fused = fused
        self.in_features = self.members[0].in_features
        self.out_features = sum(m.out_features for m in self.members)
        self.lora = LoraColumns(self.members, ALIGNMENT, fused)
        self.frozen = FrozenColumns([m.base for m in self.members], ALIGNMENT)
        self._count_columns(folded=False)
        self.dropout = max(m.dropout for m in self.members)
        biases = [m.base.bias for m in self.members]
        self.bias = None if all(b is None for b in biases) else self._join(biases)
        self.device = self.members[0].device
        self.eight_bit: EightBitWeights | None = None  # W, if products with it are in 8 bits
        self.forward_in_8_bits = False  # those of the forward pass too
        self.strong: StrongDirections | None = None  # found once, whatever products are in meanwhile
        # [W | Bf | B], if it is held; without W where no product in 16 bits reads it.
        self.resident: Tensor | None = None
        self._resident_a: Tensor | None = None

    def _count_columns(self, folded: bool) -> None:
        """Those of inputs (M, K + F + R): just K where the weights have all updates in them."""
        self.folded = folded
        self.rank = 0 if folded else self.lora.count
        self.plain = self.in_features + (0 if folded else self.frozen.count)  # columns before LoRA's
        self.width = self.plain + self.rank

    def _join(self, biases: Sequence[Tensor | None]) -> Tensor:
        like = next(b for b in biases if b is not None)
        pairs = zip(self.members, biases, strict=True)
        return torch.cat([like.new_zeros(m.out_features) if b is None else b.detach() for m, b in pairs])

    def parameters(self) -> list[nn.Parameter]:
        """A and B of each member that has LoRA, in order: the order `gradients` answers in."""
        return self.lora.parameters()

    def compute_in(self, matmul: Matmul) -> None:
        """Make the products with the frozen weights in 8 bits from now on, where it can be, or in 16 again."""
        if self.resident is not None:
            self.drop_unpacked()
        name = format_of(matmul)
        if name is not None and stays_in_16_bits(self.members, name) is not None:
            name = None
        strong = None
        if name is not None and strong_directions(matmul):
            strong = self.strong = self.strong or StrongDirections(self.members, self.fused)
        # The kernel of a product in 8 bits is none of the small operations that may be left to PyTorch: without it an
        # int8 product is emulated in float32, many times slower than one in 16 bits.
        kernels = name is not None and triton_fault() is None
        self.eight_bit = None if name is None else EightBitWeights(self.members, name, kernels, strong)
        self.forward_in_8_bits = name is not None and forward_in_8_bits(matmul)

    def missing_bytes(self, element_size: int) -> int:
        """Bytes that the input's strongest directions will take, if products want them, but do not yet."""
        if self.strong is None or not self.forward_in_8_bits:
            return 0
        return self.strong.missing_bytes(element_size)

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
            backward: there will be a backward pass, for which 8 bits are held transposed; without one they are held
                with all updates added, as these are when a pass begins.
        """
        forward, held = self.forward_in_8_bits, self.eight_bit
        folded = held is not None and held.folds and forward and not backward
        if held is not None and folded:
            held.keep_folded()
        elif held is not None:
            held.keep(forward, backward)
        self._count_columns(folded)
        self.resident = self._new_sides(dtype) if forward else self._unpacked(dtype)
        for member in self.members if packed_on_host else ():
            member.send_packed("cpu")

    def drop_unpacked(self) -> None:
        """Dequantise the weights for each product again."""
        self.resident = self._resident_a = None
        self._count_columns(folded=False)
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
        if not self.folded:
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
            self.lora.write_b(sides[:, self.frozen.count :])
        return sides

    def _joined(self, dtype: torch.dtype, fresh: bool = True) -> Tensor:
        """[W | Bf | B], (N, K + F + R). Weights held dequantised have B beside them since forward, unless fresh."""
        joined = self._unpacked(dtype) if self.resident is None else self.resident
        if self.rank and (fresh or self.resident is None):
            self.lora.write_b(joined[:, self.plain :])
        return joined

    def _stacked_a(self, dtype: torch.dtype, fresh: bool = True) -> Tensor:
        """A (R, K). Where weights are held, so is forward's A."""
        if self._resident_a is not None and not fresh:
            return self._resident_a
        stacked = self.lora.stacked_a(dtype)
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
        return self.product(inputs), inputs[:, self.plain :] * self.lora.scale

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
        return results, inputs[:, self.plain :] * self.lora.scale

    def product(self, inputs: Tensor) -> Tensor:
        """[x | x Af^T | d A^T] [W | Bf | B]^T and the biases, (M, N), from inputs as for `multiply`."""
        if self.eight_bit is None or not self.forward_in_8_bits:
            self.frozen.fill(inputs)
            return torch.nn.functional.linear(inputs, self._joined(inputs.dtype), self.bias)
        beside = None
        if self.width > self.in_features:
            self.frozen.fill(inputs)
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
        return self.lora.gradients(grad, hidden, grad_a)
