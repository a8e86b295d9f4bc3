"""How much of an update is left after rounding to 16 bits, and after a second 4-bit quantisation.

With M the merged 16-bit weight, S the weight that the update d = scale * B @ A was added to, W the original
one and Q(.) = NF4 and back, what is kept of d is the projection of the change on d:

    kept in 16 bits   <M - S, d> / <d, d>
    kept in 4 bits    <Q(M) - Q(W), d> / <d, d>

1 means that the whole update is there, 0 that nothing is. Q moves a single value by far more than d; over
a whole weight the original values' spread dithers it, so the projection stays near 1 when S = W. It falls
to 0 when S = Q(W), where every value sits on a level of its block and a small d moves none of them.
"""

from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

BLOCK = 64  # values that share one scale
PIECE = 1 << 20  # values handled at a time: temporary copies stay at some tens of MiB
UNSTORED_BITS = {"torch.bfloat16": 16, "torch.float16": 13}  # of float32's 23-bit significand


@dataclass(frozen=True)
class Survival:
    """Sums over the values of one or more weights; `+` pools them."""

    update: float  # <d, d>
    weight: float  # <W, W>
    kept_16bit: float  # <M - S, d>
    kept_4bit: float  # <Q(M) - Q(W), d>
    variance_4bit: float  # of kept_4bit, each value's rounding taken as independent

    def __add__(self, other: "Survival") -> "Survival":
        return Survival(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))

    @property
    def size(self) -> float:
        """The update's norm over the weights' norm."""
        return float((self.update / self.weight) ** 0.5) if self.weight else 0.0

    @property
    def fraction_16bit(self) -> float:
        """What 16 bits keep of the update; 1 for an update of zero."""
        return self.kept_16bit / self.update if self.update else 1.0

    @property
    def fraction_4bit(self) -> float:
        """What a second 4-bit quantisation keeps of the update; 1 for an update of zero."""
        return self.kept_4bit / self.update if self.update else 1.0

    @property
    def standard_error(self) -> float:
        """Standard error of `fraction_4bit`: large for small weights and small updates."""
        return float(self.variance_4bit**0.5 / self.update) if self.update else 0.0


def pool(parts: "list[Survival]") -> Survival:
    """Return the sum of the parts."""
    return reduce(Survival.__add__, parts, Survival(0.0, 0.0, 0.0, 0.0, 0.0))


def round_stochastically(
    values: "torch.Tensor", dtype: "torch.dtype", generator: "torch.Generator"
) -> "torch.Tensor":
    """Round float32 values to 16 bits, up or down with probability by nearness, reusing their memory.

    The expected result is the value itself. Rounding to nearest would undo every change of a 16-bit weight
    that is under half a step: 41 % of an update sized 0.1 % of a bfloat16 weight, 93 % at 0.01 %. A value
    that `dtype` holds exactly stays as it is, so adding zero changes nothing.
    """
    import torch

    if dtype == torch.float32:
        return values
    mask = (1 << UNSTORED_BITS[str(dtype)]) - 1
    values = values.contiguous()
    draws = torch.empty(-(-values.numel() // 4), dtype=torch.int64, device=values.device)
    draws.random_(-(1 << 63), None, generator=generator)  # four 16-bit numbers a draw
    noise = draws.view(torch.int16)[: values.numel()].to(torch.int32).bitwise_and_(mask)
    bits = values.view(torch.int32).view(-1)
    bits.add_(noise).bitwise_and_(~mask)
    return values.to(dtype)


def nf4_round_trip(weight: "torch.Tensor") -> "torch.Tensor":
    """Return what training with a 4-bit base sees of a weight: NF4, double quantisation, and back.

    Gives bit for bit what bitsandbytes' `quantize_4bit` and `dequantize_4bit` give for the whole weight, with
    temporary copies of a piece only (they take 10 bytes a value on the CPU).
    """
    import torch
    from bitsandbytes import functional as bnb

    pieces = torch.split(weight.reshape(-1), PIECE)
    quantised = [bnb.quantize_4bit(piece, blocksize=BLOCK, quant_type="nf4") for piece in pieces]
    scales = torch.cat([state.absmax for _, state in quantised])
    mean = scales.mean()
    scales = bnb.dequantize_blockwise(*bnb.quantize_blockwise(scales - mean, blocksize=256)) + mean
    seen = torch.empty_like(weight).view(-1)
    for (codes, state), absmax, out in zip(
        quantised, torch.split(scales, PIECE // BLOCK), torch.split(seen, PIECE), strict=True
    ):
        state.absmax = absmax
        out.copy_(bnb.dequantize_4bit(codes, state).view(-1))
    return seen.view(weight.shape)


def measure_survival(
    original: "torch.Tensor",
    start: "torch.Tensor",
    merged: "torch.Tensor",
    left: "torch.Tensor",
    right: "torch.Tensor",
) -> Survival:
    """Measure one weight: W, S and M, each [rows, columns], and d = left [rows, r] @ right [r, columns]."""
    before, after = nf4_round_trip(original), nf4_round_trip(merged)
    rows = max(1, PIECE // original.shape[1])
    tensors = (original, start, merged, before, after, left)
    import torch

    parts = []
    for blocks in zip(*(torch.split(tensor, rows) for tensor in tensors), strict=True):
        w, s, m, q_w, q_m, rows_of_left = (block.float() for block in blocks)
        d = rows_of_left @ right
        change = q_m - q_w
        products = (d * d, w * w, (m - s) * d, change * d, ((change - d) * d) ** 2)
        parts.append(Survival(*(float(product.double().sum()) for product in products)))
    return pool(parts)
