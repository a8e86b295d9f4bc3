"""Frozen 4-bit weights with their updates added before both are rounded to 8 bits: for answering, where nothing trains.

With W the dequantised weight, B A the adapter's update and Bf Af an earlier stage's frozen one, W + B A + Bf Af is
summed in float32 and rounded once. The product then errs as that of W alone does, and no product with A or B is left to
make. In 16 bits updates stay beside the weights: there the sum would be rounded where now nothing is.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from types import ModuleType

import torch
from torch import Tensor

from taigi_lightning.fast_path.lora_linear import LoraLinear

State = Sequence[tuple[int, ...]]
ROWS = 1024  # that are summed and rounded at once, some five times in float32: 0.3 GiB where K is 14,000


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


@torch.no_grad()
def states_of(groups: Sequence[Sequence[LoraLinear]]) -> Sequence[State]:
    """What the updates of each group of projections are now: another once something new is to be added, or to another
    weight.

    Where they lie, how often each was written to, its norm and its largest element. The last two tell what is written
    through a tensor's `.data`, as averaging callbacks do, which PyTorch does not count; all groups together since they
    are waited for.
    """
    found = [[t for member in members for t in _tensors(member)] for members in groups]
    tensors = [t for some in found for t in some]
    weights = [[(id(m.base.weight.quant_state),) for m in members] for members in groups]
    if not tensors:
        return weights
    bits = _values(tensors)
    # What was made in inference mode is not counted at all.
    written = [-1 if t.is_inference() else t._version for t in tensors]
    places = [t.data_ptr() for t in tensors]
    states = iter(zip(places, written, *bits, strict=True))
    return [own + list(islice(states, len(some))) for own, some in zip(weights, found, strict=True)]


def _values(tensors: Sequence[Tensor]) -> tuple[list[int], list[int]]:
    """The norm and the largest element of each tensor, as the bits of a float32: NaN is equal to itself so."""
    norms, largest = [0] * len(tensors), [0] * len(tensors)
    for dtype in {t.dtype for t in tensors}:  # those of one kind take one kernel
        places = [place for place, t in enumerate(tensors) if t.dtype == dtype]
        some = [tensors[place] for place in places]
        found = (
            torch.stack(torch._foreach_norm(some, 2, torch.float32)),
            torch.stack(torch._foreach_max(some)),
        )
        both = torch.stack([values.float() for values in found]).view(torch.int32).tolist()
        for place, norm, top in zip(places, *both, strict=True):
            norms[place], largest[place] = norm, top
    return norms, largest


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


def _tensors(member: LoraLinear) -> list[Tensor]:
    update = getattr(member.base, "frozen_update", None)
    return [*(member.lora or ()), *(() if update is None else (update.a, update.b))]
