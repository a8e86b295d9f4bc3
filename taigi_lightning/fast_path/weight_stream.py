"""Frozen 4-bit weights that wait in host memory: each layer's arrive on the device while the one before computes.

Two slots of device memory, each as large as the largest layer's packed weights, take turns. The blocks' scales and
all that trains stay on the device. The forward pass leaves its last two layers in the slots, where the backward
pass begins, and this one leaves there the first two for the next forward pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from taigi_lightning.fast_path.lora_linear import LoraLinear

ALIGNMENT = 256  # bytes: the kernels that dequantise read whole vectors


class _Slot:
    """Memory on the device for one layer's packed weights."""

    def __init__(self, memory: Tensor) -> None:
        self.memory = memory
        self.layer: int | None = None
        self.arrived: torch.cuda.Event | None = None

    def views(self, hosts: Iterable[Tensor]) -> Iterator[Tensor]:
        """The places for some tensors, in their shapes and one after the other."""
        start = 0
        for host in hosts:
            yield self.memory[start : start + host.nbytes].view(host.dtype).view(host.shape)
            start += _aligned(host.nbytes)


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


class WeightStream:
    """Which layers' packed weights wait on the host, and which of them are on the device now.

    Args:
        device: where the layers compute. On a CPU the copies are plain ones, and the same code decides them.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.copies = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self.members: dict[int, list[LoraLinear]] = {}
        self.hosts: dict[int, list[Tensor]] = {}
        self.slots: list[_Slot] = []

    def add(self, layer: int, members: Iterable[LoraLinear]) -> None:
        """Keep a layer's packed weights on the host from now on; those that are there already stay as they are."""
        if layer not in self.hosts:
            self._drop_slots()
            self.members[layer] = [m for m in members if m.packed]
            self.hosts[layer] = [m.send_to_host() for m in self.members[layer]]

    def remove(self, layer: int) -> None:
        """Keep a layer's packed weights on the device from now on."""
        if layer in self.hosts:
            self._drop_slots()
            del self.hosts[layer]
            for member in self.members.pop(layer):
                member.send_to_device(self.device)

    def host_bytes(self) -> int:
        """Bytes of host memory that the weights take."""
        return sum(host.nbytes for hosts in self.hosts.values() for host in hosts)

    def slots_bytes(self) -> int:
        """Bytes of device memory that the slots take now: none before the first layer is entered."""
        return sum(slot.memory.nbytes for slot in self.slots)

    def before_own_pass(self, module: Any, *_: Any) -> None:
        """A hook of each of transformers' own layers, which knows nothing of this.

        Raises:
            RuntimeError: a backward pass is to follow, which would read a later layer's weights as this one's.
        """
        index = module.self_attn.layer_idx
        if index in self.hosts and torch.is_grad_enabled():
            raise RuntimeError(
                "Weights that wait on the host train through this project's own decoder alone; call the model under "
                "torch.no_grad(), or set weights_on_host to none."
            )
        self.enter(index, again=True)

    # ---- the pass ----------------------------------------------------------------------------------

    def enter(self, layer: int, backward: bool = False, again: bool = False) -> None:
        """Have a layer's weights on the device for what is queued next, and start the copy of the one to follow.

        Args:
            backward: the pass goes towards the first layer.
            again: after the last layer comes the first, as in passes without a way back.
        """
        if layer not in self.hosts:
            return
        if not self.slots:
            size = max(sum(_aligned(h.nbytes) for h in hosts) for hosts in self.hosts.values())
            self.slots = [_Slot(torch.empty(size, dtype=torch.uint8, device=self.device)) for _ in range(2)]
        if self.slots[0].layer != layer:
            self.slots.reverse()
        here, other = self.slots
        if here.layer != layer:
            self._fetch(here, layer)
        if here.arrived is not None:
            torch.cuda.current_stream(self.device).wait_event(here.arrived)
        following = self._following(layer, backward, again)
        if following not in (None, layer, other.layer):
            self._fetch(other, following)

    def _following(self, layer: int, backward: bool, again: bool) -> int | None:
        order = sorted(self.hosts, reverse=backward)
        at = order.index(layer) + 1
        if at < len(order):
            return order[at]
        return order[0] if again else None

    def _fetch(self, slot: _Slot, layer: int) -> None:
        """Start copying a layer's weights into a slot, once all that was queued so far is through with the slot."""
        self._evict(slot)
        hosts = self.hosts[layer]
        views = list(slot.views(hosts))
        if self.copies is None:
            for view, host in zip(views, hosts, strict=True):
                view.copy_(host)
        else:
            self.copies.wait_stream(torch.cuda.current_stream(self.device))
            with torch.cuda.stream(self.copies):
                for view, host in zip(views, hosts, strict=True):
                    view.copy_(host, non_blocking=True)
                slot.arrived = self.copies.record_event()
        for member, view in zip(self.members[layer], views, strict=True):
            member.base.weight.data = view
        slot.layer = layer

    def _evict(self, slot: _Slot) -> None:
        """Let the weights of the layer in a slot be the host's again: who reads them now is told, not misled."""
        if slot.layer is not None:
            for member, host in zip(self.members[slot.layer], self.hosts[slot.layer], strict=True):
                member.base.weight.data = host
            slot.layer = None

    def _drop_slots(self) -> None:
        for slot in self.slots:
            self._evict(slot)
        # Whoever gets the slots' memory next waits for what is still arriving there.
        if self.copies is not None:
            torch.cuda.current_stream(self.device).wait_stream(self.copies)
        self.slots = []
