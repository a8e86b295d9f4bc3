"""Frozen 4-bit weights with their updates added before both are rounded to 8 bits: for answering, where nothing trains.

With W the dequantised weight, B A the adapter's update and Bf Af an earlier stage's frozen one, W + B A + Bf Af is
summed in float32 and rounded once. The product then errs as that of W alone does, and no product with A or B is left to
make. In 16 bits updates stay beside the weights: there the sum would be rounded where now nothing is.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor

from taigi_lightning.fast_path.lora_linear import LoraLinear

ROWS = 1024  # that are summed and rounded at once, some five times in float32: 0.3 GiB where K is 14,000


def round_with_updates(member: LoraLinear, form: ModuleType, out: Tensor, fused: bool) -> Tensor:
    """Write W + B A + Bf Af of a projection, in an 8-bit format, into out (N, K).

    Returns:
        the scale of each row, float32 (N, 1).
    """
    whole = torch.empty(
        out.shape, dtype=torch.float16, device=out.device
    )  # as weights are rotated without updates
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


def state_of(members: Sequence[LoraLinear]) -> list[tuple[int, int]]:
    """Where all updates lie and how often each was written to: another once something new is to be added.

    Writing through a tensor's `.data` is not counted.
    """
    return [(t.data_ptr(), t._version) for m in members for t in _tensors(m)]


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
