"""Where the frozen 4-bit weights of a training run wait, on the card or on the host, and what layers keep beside them.

Nothing here imports torch: `plan` predicts with these functions what the training step decides with them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from taigi_lightning.planning import activation_plan
from taigi_lightning.planning.activation_plan import Decision, kept_bytes, small_bytes
from taigi_lightning.planning.memory import Shape, packed_layer_bytes
from taigi_lightning.planning.step_time import Machine, step_seconds

WeightsOnHost = int | Literal["auto", "all", "none"]
HOST_SHARE = 0.8  # of the host memory available, for weights and activations together
SLOTS = 2  # layers' worth of device memory through which weights from the host pass


@dataclass(frozen=True)
class Placement:
    """What is done with the device's and the host's memory, and how long a micro-batch then takes.

    Args:
        decision: activations, dequantised weights, the input embedding.
        on_host: how many layers' packed weights wait on the host.
        fits: whether what must be kept fits.
        seconds: of the layers' work on one micro-batch.
    """

    decision: Decision
    on_host: int
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
    element_size: int = 2,
    packed: bool = True,
) -> Placement:
    """Choose the layers whose weights wait on the host, and what `activation_plan.decide` makes of the rest.

    Args:
        weights_on_host: how many layers, all or none; "auto" takes what costs least time: none where everything fits
            the device.
        headroom: `activation_plan.headroom_left` with all weights on the device.
        host_headroom: bytes of the host that activations may take.
        host: bytes of the host that weights and activations may take together.
        The others: as for `activation_plan.decide`.
    """

    def placed(on_host: int, host_headroom: float) -> Placement:
        freed = on_host * packed_layer_bytes(shape) - slot_bytes(shape, on_host)
        left = headroom + freed
        decision = activation_plan.decide(
            shape, tokens, rank, budget=budget, headroom=left, host_headroom=host_headroom, embedding=embedding,
            element_size=element_size, packed=packed,
        )  # fmt: skip
        left += embedding if decision.embedding_on_host else 0
        device, _ = kept_bytes(decision.savings, shape, tokens, 0, element_size)
        fits = (
            device + small_bytes(shape, tokens, rank, element_size) <= left
            and on_host * packed_layer_bytes(shape) <= host
        )
        seconds = step_seconds(decision.savings, on_host, shape, tokens, machine, element_size)
        return Placement(decision, on_host, fits, seconds)

    def movable(on_host: int) -> float:
        return max(0.0, min(host_headroom, host - on_host * packed_layer_bytes(shape)))

    choices = counts(weights_on_host, shape.layers, packed)
    first = placed(choices[0], movable(choices[0]))
    if first.fits and first.decision.keeping == shape.layers:
        return first
    # With a link too slow for both, activations had better be made again than moved.
    found = [placed(n, moved) for n in choices for moved in {movable(n), 0.0}]
    fitting = [one for one in found if one.fits]
    if not fitting:
        return placed(choices[-1], movable(choices[-1]))
    if budget != "auto":  # a share of the activations was asked for: only what does not fit goes
        return min(fitting, key=lambda one: (one.on_host, one.seconds))
    return min(fitting, key=lambda one: (one.seconds, one.on_host))


def counts(weights_on_host: WeightsOnHost, layers: int, packed: bool = True) -> list[int]:
    """How many layers may wait on the host. Fewer than the slots hold spare nothing."""
    if not packed or weights_on_host == "none":
        return [0]
    if weights_on_host == "auto":
        return [0, *range(SLOTS + 1, layers + 1)]
    return [layers if weights_on_host == "all" else min(int(weights_on_host), layers)]
