"""Where the frozen 4-bit weights of a training run wait, on the card or on the host, and what layers keep beside them.

Nothing here imports torch: `plan` predicts with these functions what the training step decides with them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from taigi_lightning.planning import activation_plan
from taigi_lightning.planning.activation_plan import Decision, kept_bytes, small_bytes, transient_bytes
from taigi_lightning.planning.memory import Shape, packed_layer_bytes
from taigi_lightning.planning.step_time import Machine, head_seconds, step_seconds

WeightsOnHost = int | Literal["auto", "all", "none"]
HOST_SHARE = 0.8  # of the host memory available, for weights and activations together
SLOTS = 2  # layers' worth of device memory through which weights from the host pass


@dataclass(frozen=True)
class Placement:
    """What is done with the device's and the host's memory, and how long a micro-batch then takes.

    Args:
        decision: activations, dequantised weights, the input embedding.
        on_host: how many layers' packed weights wait on the host.
        head_on_host: whether the output head does, and the input embedding if it is the same.
        fits: whether what must be kept fits.
        seconds: of the layers' work on one micro-batch, and of what a head on the host adds to it.
    """

    decision: Decision
    on_host: int
    head_on_host: bool
    fits: bool
    seconds: float


def spread(layers: int, count: int) -> list[int]:
    """Which layers wait on the host: evenly spread, so that each copy hides behind as much computation.

    >>> spread(8, 4), spread(3, 3)
    ([1, 3, 5, 7], [0, 1, 2])
    """
    return [(2 * n + 1) * layers // (2 * count) for n in range(count)]


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
    host_headroom: float,
    host: float,
    embedding: int = 0,
    head: int = 0,
    element_size: int = 2,
    packed: bool = True,
    weight_size: int | None = None,
) -> Placement:
    """Choose the layers whose weights wait on the host, and what `activation_plan.decide` makes of the rest.

    Args:
        weights_on_host: how many layers, all or none; "auto" takes what costs least time: none where everything fits
            the device.
        headroom: `activation_plan.headroom_left` with all weights on the device.
        host_headroom: bytes of the host that activations may take.
        host: bytes of the host that weights and activations may take together.
        head: bytes of the output head if it may move to the host, which it does where nothing fits otherwise; it is
            multiplied part by part. Tied, it is the input embedding as well.
        The others: as for `activation_plan.decide`.
    """
    given = _Given(
        shape,
        tokens,
        rank,
        machine,
        budget,
        headroom,
        host_headroom,
        host,
        embedding,
        head,
        element_size,
        packed,
        weight_size,
    )

    def fitting(head_moves: bool) -> list[Placement]:
        return [
            one
            for n in choices
            for moving in (True, False)
            if (one := given.placed(n, head_moves, moving)).fits
        ]

    choices = counts(weights_on_host, shape.layers, packed)
    first = given.placed(choices[0])
    if first.fits and first.decision.keeping == shape.layers:
        return first
    # The head leaves last: its parts are added up in another order, and no layer's work hides its copies.
    found = fitting(head_moves=False)
    if not found and (not head or given.placed(choices[-1], barely=True).fits):
        return given.placed(choices[-1])
    return _best(found or fitting(head_moves=True) or [given.placed(choices[-1], head_moves=True)], budget)


@dataclass(frozen=True)
class _Given:
    """What `place` was given to choose for."""

    shape: Shape
    tokens: int
    rank: int
    machine: Machine
    budget: float | Literal["auto"]
    headroom: float
    host_headroom: float
    host: float
    embedding: int
    head: int
    element_size: int
    packed: bool
    weight_size: int | None

    def placed(
        self, on_host: int, head_moves: bool = False, moving: bool = True, barely: bool = False
    ) -> Placement:
        """What becomes of everything else if so many layers' weights wait.

        Args:
            head_moves: the output head waits too.
            moving: activations may move to the host; with a link too slow for both they had better be made again.
            barely: count small tensors exactly, not at most.
        """
        shape, tokens, size = self.shape, self.tokens, self.element_size
        waiting = on_host * packed_layer_bytes(shape) + (self.head if head_moves else 0)
        left = self.headroom + waiting - slot_bytes(shape, on_host)
        left += transient_bytes(shape, tokens, size) - transient_bytes(shape, tokens, size, head_moves)
        decision = activation_plan.decide(
            shape, tokens, self.rank, budget=self.budget, headroom=left,
            host_headroom=max(0.0, min(self.host_headroom, self.host - waiting)) if moving else 0.0,
            embedding=self.embedding, element_size=size, packed=self.packed,
            weight_size=self.weight_size,
        )  # fmt: skip
        left += self.embedding if decision.embedding_on_host else 0
        device, _ = kept_bytes(decision.savings, shape, tokens, self.rank if barely else 0, size)
        beside = 0 if barely else small_bytes(shape, tokens, self.rank, size)
        fits = device + beside <= left and waiting <= self.host
        seconds = step_seconds(decision.savings, on_host, shape, tokens, self.machine, size)
        seconds += head_seconds(shape, tokens, self.machine, size) if head_moves else 0.0
        return Placement(decision, on_host, head_moves, fits, seconds)


def _best(found: list[Placement], budget: float | Literal["auto"]) -> Placement:
    """The fastest; where a share of the activations was asked for, only what does not fit goes to the host."""
    if budget != "auto":
        return min(found, key=lambda one: (one.on_host, one.seconds))
    return min(found, key=lambda one: (one.seconds, one.on_host))


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
    choices = [n for n in counts(weights_on_host, shape.layers, packed) if n * each <= host] or [0]

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
