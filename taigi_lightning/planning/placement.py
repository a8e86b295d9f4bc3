"""Where the frozen 4-bit weights of a training run wait, on the card or on the host, and what layers keep beside them.

Nothing here imports torch: `plan` predicts with these functions what the training step decides with them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from taigi_lightning.planning.activation_plan import (
    HIDDEN,
    MOVED_MORE,
    small_bytes,
    transient_bytes,
    unpacked_bytes,
)
from taigi_lightning.planning.host_budget import HostBudget
from taigi_lightning.planning.layer_mix import Choice, Decision, Mixes, choose
from taigi_lightning.planning.memory import Shape, packed_layer_bytes
from taigi_lightning.planning.step_time import Machine, Pace, head_seconds

WeightsOnHost = int | Literal["auto", "all", "none"]
SLOTS = 2  # layers' worth of device memory through which weights from the host pass


@dataclass(frozen=True)
class Placement:
    """What is done with the device's and the host's memory, and how long a micro-batch then takes.

    Args:
        decision: activations, dequantised weights, the input embedding.
        on_host: how many layers' packed weights wait on the host.
        head_on_host: whether the output head does, and the input embedding if it is the same.
        lacking: bytes of the device that are lacking for what must be kept; 0 or less where it fits.
        host_lacking: the same of the host.
        seconds: of the layers' work on one micro-batch, and of what a head on the host adds to it.
    """

    decision: Decision
    on_host: int
    head_on_host: bool
    lacking: float
    host_lacking: float
    seconds: float

    @property
    def fits(self) -> bool:
        """Whether what must be kept fits device and host."""
        return self.lacking <= 0 and self.host_lacking <= 0


def slot_bytes(shape: Shape, on_host: int) -> int:
    """Bytes of the device that weights from the host pass through."""
    return SLOTS * packed_layer_bytes(shape) if on_host else 0


def head_bytes(shape: Shape, weights_on_host: WeightsOnHost, element_size: int = 2) -> int:
    """Bytes of the output head, if it may wait on the host: where no weights may, it stays."""
    return 0 if weights_on_host in ("none", 0) else shape.vocabulary * shape.hidden * element_size


def place(
    shape: Shape,
    tokens: int,
    rank: int,
    *,
    weights_on_host: WeightsOnHost,
    machine: Machine,
    budget: float | Literal["auto"],
    headroom: float,
    host: HostBudget,
    embedding: int = 0,
    head: int = 0,
    element_size: int = 2,
    packed: bool = True,
    weight_size: int | None = None,
    waiting: int = 0,
) -> Placement:
    """Choose the layers whose weights wait on the host, and what each layer keeps, moves or computes again.

    Args:
        weights_on_host: how many layers, all or none; "auto" takes what costs least time: none where everything fits
            the device.
        headroom: `activation_plan.headroom_left` with all weights on the device.
        host: what of the host's memory all that leaves the device may take.
        head: bytes of the output head if it may move to the host, which it does where nothing fits otherwise; it is
            multiplied part by part. Tied, it is the input embedding as well.
        waiting: how many layers' weights wait already and stay, whatever is chosen.
        The others: as for `layer_mix.decide`.

    Returns:
        what fits device and host and takes least time; where nothing fits, what lacks least.
    """
    a_layer = unpacked_bytes(shape, rank, element_size, packed, weight_size)
    given = _Given(
        shape, tokens, rank, machine, budget, headroom, host, embedding, head, element_size, a_layer,
        Mixes(shape, tokens, element_size), Pace(shape, tokens, machine),
    )  # fmt: skip
    choices = [n for n in counts(weights_on_host, shape.layers, packed) if n >= waiting] or [waiting]
    first = given.placed(choices[0])
    if first.fits and first.keeping == shape.layers:
        return first.placement(given)
    tried = [first, *(given.placed(n) for n in choices[1:])]
    found = [one for one in tried if one.fits]
    # Where all weights wait and no layer keeps everything, small tensors are fewer than they may be elsewhere.
    barely = given.placed(choices[-1], barely=True)
    if budget == "auto" and choices[-1] == shape.layers and barely.fits and not barely.keeping:
        found.append(barely)
    # The head leaves last: its parts are added up in another order, and no layer's work hides its copies.
    if not found and head and not barely.fits:
        tried += [given.placed(n, head_moves=True) for n in choices]
        found = [one for one in tried if one.fits]
    best = _best(found, budget) if found else min(tried, key=_Placed.short)
    return best.placement(given)


@dataclass(frozen=True)
class _Given:
    """What `place` was given to choose for, what its layers may do, and how long that takes."""

    shape: Shape
    tokens: int
    rank: int
    machine: Machine
    budget: float | Literal["auto"]
    headroom: float
    host: HostBudget
    embedding: int
    head: int
    element_size: int
    a_layer: int
    mixes: Mixes
    pace: Pace

    def placed(self, on_host: int, head_moves: bool = False, barely: bool = False) -> _Placed:
        """What becomes of everything else if so many layers' weights wait.

        Args:
            head_moves: the output head waits too.
            barely: count what small tensors take of layers that do not keep everything, not what they may of any.
        """
        shape, tokens, size = self.shape, self.tokens, self.element_size
        weights, table = on_host * packed_layer_bytes(shape), self.head if head_moves else 0
        left = self.headroom + weights + table - slot_bytes(shape, on_host)
        left += transient_bytes(shape, tokens, size) - transient_bytes(shape, tokens, size, head_moves)
        # Of layers that keep little here.
        most_ranks = 1 + sum(HIDDEN.get(name, 0) for name in MOVED_MORE.host)
        least = shape.layers * tokens * self.rank * size * most_ranks
        left_there = self.host.left(weights, table)
        choice = choose(
            self.mixes, budget=self.budget,
            headroom=left - (least if barely else small_bytes(shape, tokens, self.rank, size)),
            host_headroom=self.host.share, host_left=left_there, embedding=self.embedding, a_layer=self.a_layer,
            cost=lambda again, moved: self.pace.seconds(again, moved, on_host),
        )  # fmt: skip
        seconds = self.pace.seconds(choice.mix.again, choice.mix.host, on_host)
        seconds += head_seconds(shape, tokens, self.machine, size) if head_moves else 0.0
        return _Placed(choice, on_host, head_moves, -left_there if weights or table else 0.0, seconds)


@dataclass(frozen=True)
class _Placed:
    """A `Placement` whose layers are not listed yet."""

    choice: Choice
    on_host: int
    head_moves: bool
    host_lacking: float
    seconds: float

    @property
    def keeping(self) -> int:
        return self.choice.mix.keeping

    @property
    def fits(self) -> bool:
        return self.choice.lacking <= 0 and self.host_lacking <= 0

    def short(self) -> tuple[float, float]:
        """By what it does not fit: too little host memory first, which no smaller batch mends."""
        return max(0.0, self.host_lacking), self.choice.lacking

    def placement(self, given: _Given) -> Placement:
        savings = self.choice.mix.savings(given.shape.layers, given.mixes.sizes)
        decision = Decision(savings, self.choice.unpacked, self.choice.embedding_on_host)
        return Placement(
            decision, self.on_host, self.head_moves, self.choice.lacking, self.host_lacking, self.seconds
        )


def _best(found: list[_Placed], budget: float | Literal["auto"]) -> _Placed:
    """The fastest; where a share of the activations was asked for, only what does not fit goes to the host."""
    if budget != "auto":
        return min(found, key=lambda one: (one.on_host, one.seconds))
    return min(found, key=lambda one: (one.seconds, one.on_host))


def loads_to_host(weights_on_host: WeightsOnHost, held: float, card: float) -> bool:
    """Whether all packed weights must wait on the host while they load, as none of them is on the card yet.

    Args:
        held: bytes of weights and adapter.
        card: bytes of the device that are free.
    """
    return held > card if weights_on_host == "auto" else weights_on_host not in ("none", 0)


def place_prediction(
    shape: Shape,
    *,
    weights_on_host: WeightsOnHost,
    headroom: float,
    host: float,
    head: int = 0,
    packed: bool = True,
) -> tuple[int, bool]:
    """How many layers' packed weights wait on the host while questions are answered, and whether the head does.

    Args:
        weights_on_host: as for `place`; "auto" lets as few wait as the device needs.
        headroom: bytes of the device that are left with all weights there and a row on its way; below 0, what lacks.
        host: bytes of the host that weights may take.
        head: bytes of the output head if it may move. It comes after each pass, where no layer hides its copy: so the
            layers go first.
    """
    each = packed_layer_bytes(shape)
    wanted = counts(weights_on_host, shape.layers, packed)
    # A number that was asked for is followed, whatever that takes of the host.
    choices = [n for n in wanted if n * each <= host] or wanted

    def left(n: int) -> float:
        return headroom + n * each - slot_bytes(shape, n)

    fewest = next((n for n in choices if left(n) >= 0), choices[-1])
    return fewest, left(fewest) < 0 and 0 < head <= host - fewest * each


def counts(weights_on_host: WeightsOnHost, layers: int, packed: bool = True) -> list[int]:
    """How many layers may wait on the host. Fewer than the slots hold spare nothing."""
    if not packed or weights_on_host == "none":
        return [0]
    if weights_on_host == "auto":
        return [0, *range(SLOTS + 1, layers + 1)]
    return [layers if weights_on_host == "all" else min(int(weights_on_host), layers)]
