"""Saved activations in pinned host memory, copied beside the computation: out in forward, back before backward."""

import math
import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, distributed

from taigi_lightning.kernels.available_memory import available_bytes
from taigi_lightning.kernels.host_memory import host_tensor
from taigi_lightning.planning.host_budget import HostBudget


def host_budget(offload: bool | float, moved: float, lockable: float) -> HostBudget:
    """What of this machine's memory may hold what leaves the card, now.

    The processes of one machine share it. Where their number is unknown, all of the run's count.

    Args:
        offload: as for `apply_fast_path`.
        moved: bytes that have left the cards of this machine's processes already.
        lockable: bytes that may be page-locked.
    """
    most = None if offload is True else offload * 2**30
    return HostBudget(available_bytes() + moved, lockable, ranks_here(), most)


def ranks_here() -> int:
    """Processes of this run that share this machine's memory."""
    everyone = distributed.get_world_size() if distributed.is_initialized() else 1
    return int(os.environ.get("LOCAL_WORLD_SIZE", everyone))


class HostBuffers:
    """Page-locked host memory by key, (bytes,) uint8 each, reused step after step."""

    def __init__(self) -> None:
        self.buffers: dict[Any, Tensor] = {}

    def host_bytes(self) -> int:
        """Bytes of host memory that they take."""
        return sum(buffer.nbytes for buffer in self.buffers.values())

    def locked_bytes(self) -> int:
        """How many of these are page-locked."""
        return sum(buffer.nbytes for buffer in self.buffers.values() if buffer.is_pinned())

    def reserve(self, wanted: Mapping[Any, int], limit: float) -> bool:
        """Have a buffer of so many bytes or more for each key.

        Others stay for shapes that come again, as far as all together stay within a limit.

        Args:
            limit: bytes; those wanted may pass it.

        Returns:
            whether the system gave them all, and page-locked.
        """
        short = any(key not in self.buffers or self.buffers[key].nbytes < n for key, n in wanted.items())
        if short or self.host_bytes() > limit:
            self.wait()
            self.buffers = self._shared_out(wanted)
            missing = sum(size for key, size in wanted.items() if key not in self.buffers)
            for stays in (lambda key, _: key in wanted, lambda key, size: size == wanted.get(key)):
                if self.host_bytes() + missing > limit:
                    self.buffers = {key: b for key, b in self.buffers.items() if stays(key, b.nbytes)}
            try:
                for key, size in wanted.items():
                    if key not in self.buffers:
                        self.buffers[key] = host_tensor((size,), torch.uint8)
            except (MemoryError, OSError):  # as mapped pages are refused
                return False
        return all(self.buffers[key].is_pinned() for key in wanted)

    def _shared_out(self, wanted: Mapping[Any, int]) -> dict[Any, Tensor]:
        """The locked buffers, those that nobody wants given to keys that lack one that is large enough: a system that
        has refused to lock memory may go on refusing."""
        locked = {key: buffer for key, buffer in self.buffers.items() if buffer.is_pinned()}
        found = {key: b for key, b in locked.items() if b.nbytes >= wanted.get(key, math.inf)}
        free = sorted((b.nbytes, key) for key, b in locked.items() if key not in found)
        for key, size in sorted(wanted.items(), key=lambda item: item[1]):
            free = [one for one in free if one[0] >= size or one[1] not in wanted]
            place = next((n for n, one in enumerate(free) if one[0] >= size), None)
            if key not in found and place is not None:
                found[key] = locked[free.pop(place)[1]]
        return {key: locked[key] for _, key in free if key not in wanted} | found

    def wait(self) -> None:
        """Return when nothing is on its way to or from any."""


class HostStash(HostBuffers):
    """Activations in such buffers. Holds at most two copies in flight each way."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device
        self.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self.hosts: dict[object, Tensor] = {}  # what lies in the buffers, in its own shape
        self.leaving: list[tuple[Tensor, torch.cuda.Event]] = []
        self.coming: dict[object, tuple[Tensor, torch.cuda.Event]] = {}

    def wait(self) -> None:
        """Return when all copies are through."""
        self.stream.synchronize()

    def put(self, key: object, tensor: Tensor) -> None:
        """Start copying a contiguous tensor to the host; its memory is held until the copy is through."""
        if key not in self.buffers or self.buffers[key].nbytes < tensor.nbytes:
            self.wait()
            self.buffers[key] = host_tensor((tensor.nbytes,), torch.uint8)
        host = self.buffers[key][: tensor.nbytes].view(tensor.dtype).view(tensor.shape)
        self.hosts[key] = host
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.stream):
            host.copy_(tensor, non_blocking=True)
        self.leaving.append((tensor, self.stream.record_event()))

    def settle(self, in_flight: int = 0) -> None:
        """Make the computation wait for all copies out but the last in_flight, and free what they held."""
        while len(self.leaving) > in_flight:
            _, done = self.leaving.pop(0)
            torch.cuda.current_stream(self.device).wait_event(done)

    def prefetch(self, key: object) -> None:
        """Start copying a tensor back, unless it is under way."""
        if key in self.coming:
            return
        host = self.hosts[key]
        tensor = torch.empty(host.shape, dtype=host.dtype, device=self.device)
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.stream):
            tensor.copy_(host, non_blocking=True)
        self.coming[key] = (tensor, self.stream.record_event())

    def get(self, key: object) -> Tensor:
        """The tensor on the device again; the computation waits for its copy."""
        self.prefetch(key)
        tensor, done = self.coming.pop(key)
        torch.cuda.current_stream(self.device).wait_event(done)
        return tensor
