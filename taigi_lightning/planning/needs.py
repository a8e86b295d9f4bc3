"""What a run takes of the card and of the host, by purpose, and what was decided on the way."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from taigi_lightning.planning.host_budget import HostBudget


@dataclass(frozen=True)
class Part:
    """One purpose, the bytes it takes, and a few words beside them."""

    purpose: str
    bytes: int
    note: str = ""


@dataclass(frozen=True)
class Decisions:
    """What becomes of the base's layers.

    Args:
        path: "fast" where the project's own layers run, "general" where transformers' do.
        path_reason: why it is the general one.
        layers: how many the base has.
        layers_kept: of these, those that keep all activations on the card.
        layers_moving: of these, those that move activations to the host.
        layers_dequantised: of these, those whose base weights wait in 16 bits.
        embedding_on_host: whether the input embedding moves to host memory.
        head_on_host: whether the output head waits there, and the input embedding if it is the same.
        layers_on_host: of all, those whose 4-bit weights wait in host memory.
        slow_down: how many times as long the layers of a micro-batch take as if their weights were on the card.
        kept_slow_down: how many times as long as if everything were on the card, activations included.
    """

    path: Literal["fast", "general"]
    path_reason: str | None
    layers: int
    layers_kept: int = 0
    layers_dequantised: int = 0
    embedding_on_host: bool = False
    head_on_host: bool = False
    layers_on_host: int = 0
    slow_down: float = 1.0
    kept_slow_down: float = 1.0
    layers_moving: int = 0


@dataclass(frozen=True)
class Needs:
    """The parts of the card's memory at the peak, and of the host's, in the order of the table; no part is 0."""

    decisions: Decisions
    device: tuple[Part, ...]
    host: tuple[Part, ...] = field(default=())
    lacking: float = 0.0  # bytes of the card with its margin left free, where a run fills the rest of it
    loading: int = (
        0  # bytes of the host that weights take while they load, before any of them moves to the card
    )

    @property
    def total(self) -> int:
        """Bytes of the card."""
        return sum(part.bytes for part in self.device)

    @property
    def host_total(self) -> int:
        """Bytes of the host."""
        return sum(part.bytes for part in self.host)

    def host_fits(self, budget: HostBudget) -> bool:
        """Whether a host holds them and still works, and could hold what loads."""
        return self.host_total <= budget.in_all and self.loading <= max(0.0, budget.available)

    @property
    def parts(self) -> dict[str, int]:
        """Bytes of the card by purpose."""
        return {part.purpose: part.bytes for part in self.device}


def taken(parts: Iterable[Part]) -> tuple[Part, ...]:
    """Those that take anything."""
    return tuple(part for part in parts if part.bytes)
