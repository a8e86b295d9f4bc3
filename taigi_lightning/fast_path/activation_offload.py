"""Saved activations in pinned host memory, copied beside the computation: out in forward, back before backward."""

import os

import torch
from torch import Tensor, distributed

from taigi_lightning.kernels.host_memory import available_bytes, host_tensor
from taigi_lightning.planning.activation_plan import ACTIVATION_SHARE


def host_bytes(offload: bool | float) -> float:
    """Bytes of host memory activations may take: `offload` GiB, or half of what is available.

    The processes of one machine share that half. Where their number is unknown, all of the run's count.
    """
    if not isinstance(offload, bool):
        return offload * 2**30
    if not offload:
        return 0.0
    return ACTIVATION_SHARE * available_bytes() / ranks_here()


def ranks_here() -> int:
    """Processes of this run that share this machine's memory."""
    everyone = distributed.get_world_size() if distributed.is_initialized() else 1
    return int(os.environ.get("LOCAL_WORLD_SIZE", everyone))


class HostStash:
    """Pinned buffers, one per key, reused step after step. Holds at most two copies in flight each way."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self.hosts: dict[object, Tensor] = {}
        self.leaving: list[tuple[Tensor, torch.cuda.Event]] = []
        self.coming: dict[object, tuple[Tensor, torch.cuda.Event]] = {}

    def put(self, key: object, tensor: Tensor) -> None:
        """Start copying a contiguous tensor to the host; its memory is held until the copy is through."""
        host = self.hosts.get(key)
        if host is None or host.shape != tensor.shape or host.dtype != tensor.dtype:
            host = host_tensor(tensor.shape, tensor.dtype)
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
