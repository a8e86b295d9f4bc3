"""One micro-batch on its way through the decoder's layers, and what it leaves for the way back."""

from dataclasses import dataclass, field
from functools import cached_property
from types import ModuleType
from typing import Any

from torch import Tensor

from taigi_lightning.fast_path.activation_offload import HostStash
from taigi_lightning.fast_path.attention import Documents
from taigi_lightning.kernels.elementwise import Dropout
from taigi_lightning.planning.activation_plan import Saving


@dataclass
class Step:
    """What every layer reads of a micro-batch (B, T), and what each saved of it."""

    documents: Documents
    tables: dict[str, tuple[Tensor, Tensor]]  # cos and sin (M, D) of each kind of layer
    shape: tuple[int, int]  # B, T
    seed: int
    training: bool  # dropout is on
    ops: ModuleType  # elementwise or elementwise_triton
    savings: list[Saving]
    stash: HostStash | None
    saved: dict[int, dict[str, Any]] = field(default_factory=dict)

    @property
    def tokens(self) -> int:
        """M = B * T."""
        return self.shape[0] * self.shape[1]

    def dropout(self, probability: float, layer: int, site: int) -> Dropout:
        """The dropout of one group of projections: its own mask in every layer and micro-batch."""
        mixed = (self.seed * 0x9E3779B97F4A7C15 + (4 * layer + site + 1) * 0xBF58476D1CE4E5B9) >> 20
        return Dropout(probability if self.training else 0.0, mixed)

    def save(self, layer: int, name: str, big: Tensor, *small: Tensor) -> None:
        """Keep a tensor for layer's backward pass, as `savings` says; small ones stay on the device."""
        if not self.savings:
            return
        saving = self.savings[layer]
        here = self.saved.setdefault(layer, {})
        if name in saving.host and self.stash is not None:
            self.stash.put((layer, name), big.detach())
            here[name] = (None, *small)
        elif name in saving.device or name in saving.host:
            here[name] = (big.detach(), *small)

    @cached_property
    def moving(self) -> list[int]:
        """The layers of which something goes to the host, in order."""
        return [] if self.stash is None else [n for n, saving in enumerate(self.savings) if saving.host]

    def settle(self, layer: int) -> None:
        """Wait until of all that moves one layer's worth at most is on its way; of what is above the last, nothing."""
        if self.stash is not None and self.savings:
            below = bool(self.moving) and layer <= self.moving[-1]
            self.stash.settle(max(len(self.savings[n].host) for n in self.moving) if below else 0)

    def prefetch(self, layer: int) -> None:
        """Start bringing back what the next layer on the way back has on the host; nothing while those above last."""
        if self.stash is None or not self.moving or layer > self.moving[-1] + 1:
            return
        coming = max((n for n in self.moving if n < layer), default=None)
        for name, (big, *_) in self.saved.get(-1 if coming is None else coming, {}).items():
            if big is None:
                self.stash.prefetch((coming, name))

    def load(self, layer: int, name: str) -> tuple[Any, ...] | None:
        """What `save` kept, or None if it is to be recomputed."""
        found = self.saved[layer].pop(name, None)
        if found is not None and found[0] is None and self.stash is not None:
            return (self.stash.get((layer, name)), *found[1:])
        return found  # type: ignore[no-any-return]
