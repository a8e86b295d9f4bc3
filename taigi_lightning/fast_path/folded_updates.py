"""Frozen 4-bit weights with their updates added before both are rounded to 8 bits: for answering, where nothing trains.

With W the dequantised weight, B A the adapter's update and Bf Af an earlier stage's frozen one, W + B A + Bf Af is
summed in float32 and rounded once. The product then errs as that of W alone does, and no product with A or B is left to
make. In 16 bits updates stay beside the weights: there the sum would be rounded where now nothing is.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from taigi_lightning.fast_path.lora_linear import LoraLinear

ROWS = 1024  # that are summed and rounded at once, some five times in float32: 0.3 GiB where K is 14,000


class Written(NamedTuple):
    """What is added to which weights, as far as the host knows it.

    Args:
        weights: bitsandbytes' states of the weights; merging makes new ones.
        places: where each matrix of an update lies, and how often it was written to.
    """

    weights: tuple[Any, ...]
    places: tuple[tuple[int, int], ...]

    def same(self, other: Written) -> bool:
        """Whether nothing that is counted has happened in between. States would compare what they hold, on the card."""
        alike = all(one is another for one, another in zip(self.weights, other.weights, strict=True))
        return alike and self.places == other.places


def round_with_updates(member: LoraLinear, form: ModuleType, out: Tensor, fused: bool) -> Tensor:
    """Write W + B A + Bf Af of a projection, in an 8-bit format, into out (N, K).

    Returns:
        the scale of each row, float32 (N, 1).
    """
    # In what weights are rotated in without updates too.
    whole = torch.empty(out.shape, dtype=torch.float16, device=out.device)
    member.unpack(whole, fused)
    factors, scales = _factors(member), []
    for first in range(0, len(whole), ROWS):
        rows = slice(first, first + ROWS)
        part = whole[rows].float()
        for b, a in factors:
            part.addmm_(b[rows], a)
        out[rows], scale = form.quantise_rows(part)
        scales.append(scale)
    return torch.cat(scales)


def written(members: Sequence[LoraLinear]) -> Written:
    """What is added to a group's weights now."""
    # What was made in inference mode is not counted at all.
    places = [(t.data_ptr(), -1 if t.is_inference() else t._version) for t in tensors_of(members)]
    return Written(tuple(m.base.weight.quant_state for m in members), tuple(places))


class Fingerprints:
    """The norm and the largest element of each matrix of some groups' updates, on their way from the device.

    They tell what is written through a tensor's `.data`, as averaging callbacks do, which PyTorch does not count; and
    what was made in inference mode. Two kernels for all matrices of one dtype; only `read` waits, and for these alone,
    not for what is computed after them.
    """

    @torch.no_grad()
    def __init__(self, groups: Sequence[Sequence[LoraLinear]]) -> None:
        parts = [tensors_of(members) for members in groups]
        self._sizes = [len(part) for part in parts]
        tensors = [t for part in parts for t in part]
        self._found: list[tuple[list[int], Tensor]] = []  # places, and int32 (2, so many)
        for dtype in {t.dtype for t in tensors}:
            places = [place for place, t in enumerate(tensors) if t.dtype == dtype]
            some = [tensors[place] for place in places]
            both = (
                torch.stack(torch._foreach_norm(some, 2, torch.float32)),
                torch.stack(torch._foreach_max(some)),
            )
            # As bits: NaN is equal to itself so.
            bits = torch.stack([values.float() for values in both]).view(torch.int32)
            self._found.append((places, bits.to("cpu", non_blocking=True)))
        on_card = bool(tensors) and tensors[0].is_cuda
        self._there = torch.cuda.current_stream(tensors[0].device).record_event() if on_card else None

    def read(self) -> list[list[tuple[int, int]]]:
        """Those of each group."""
        if self._there is not None:
            self._there.synchronize()
        every: dict[int, tuple[int, int]] = {}
        for places, bits in self._found:
            every |= dict(zip(places, zip(*bits.tolist(), strict=True), strict=True))
        pairs = iter(every[place] for place in range(len(every)))
        return [list(islice(pairs, size)) for size in self._sizes]


def _factors(member: LoraLinear) -> list[tuple[Tensor, Tensor]]:
    """B, scaled (N, r), and A (r, K), in float32, of each update."""
    found = []
    if member.lora is not None:
        a, b = member.lora
        found.append((b.detach().float() * member.scale, a.detach().float()))
    update = getattr(member.base, "frozen_update", None)
    if update is not None:
        found.append((update.b.detach().float(), update.a.detach().float()))
    return found


def tensors_of(members: Sequence[LoraLinear]) -> list[Tensor]:
    """The matrices of a group's updates."""
    found: list[Tensor] = []
    for member in members:
        update = getattr(member.base, "frozen_update", None)
        found += [*(member.lora or ()), *(() if update is None else (update.a, update.b))]
    return found
