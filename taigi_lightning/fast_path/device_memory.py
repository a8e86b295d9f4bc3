"""How much of a GPU's memory this process may still take, and how well its allocator uses it."""

from __future__ import annotations

import math
from functools import cache

import torch

from taigi_lightning.planning.activation_plan import LOOSE_MARGIN, MARGIN
from taigi_lightning.windows import lends_host_memory


def allowed_bytes(device: torch.device) -> tuple[float, float]:
    """Bytes of a GPU that this process may take in all, and that are not allocated yet."""
    free, total = torch.cuda.mem_get_info(device)
    held, used = torch.cuda.memory_reserved(device), torch.cuda.memory_allocated(device)
    limit = torch.cuda.get_per_process_memory_fraction(device) * total
    return limit, min(free + held, limit) - used


@cache
def hold_to_own_memory(device: torch.device) -> int | None:
    """Keep this process to what is free of a GPU's own memory, where its driver would go on in host memory (WDDM).

    What is past it then ends as out of memory, with what to do, instead of running many times slower without a word.

    Returns:
        the bytes held to; None where the driver lends nothing, or on a CPU.
    """
    if device.type != "cuda" or not lends_host_memory():
        return None
    free, total = torch.cuda.mem_get_info(device)
    own = free + torch.cuda.memory_reserved(device)
    torch.cuda.set_per_process_memory_fraction(min(1.0, own / total), device)
    return own


@cache
def margin() -> float:
    """The share of a GPU's memory to leave free for holes between allocations.

    PyTorch's allocator leaves fewer where it may expand its segments. The setting that makes it so may be absent, and
    is not heeded on every system: so its segments are asked, once, since listing them takes long where there are many.
    """
    segments = torch.cuda.memory_snapshot()  # type: ignore[no-untyped-call]
    return MARGIN if any(segment.get("is_expandable") for segment in segments) else LOOSE_MARGIN


class CardMemory:
    """What of a GPU's memory is taken now, was taken at the peak, and may be taken in all; bytes.

    Args:
        device: the GPU; of any other nothing is known, and nothing counts as taken.
        margin: the share to leave free, if more than the allocator needs.
    """

    def __init__(self, device: torch.device, margin: float) -> None:
        self.device, self.margin, self.known = device, margin, device.type == "cuda"

    def held(self) -> int:
        """Taken by tensors now."""
        return torch.cuda.memory_allocated(self.device) if self.known else 0

    def peak(self) -> int:
        """Taken by tensors at most since the peak was forgotten."""
        return torch.cuda.max_memory_allocated(self.device) if self.known else 0

    def forget_peak(self) -> None:
        """Let `peak` begin with what is taken now."""
        if self.known:
            torch.cuda.reset_peak_memory_stats(self.device)

    def usable(self) -> float:
        """What tensors may take in all, beside what others hold."""
        if not self.known:
            return math.inf
        limit, available = allowed_bytes(self.device)
        return available + self.held() - limit * max(self.margin, margin())
