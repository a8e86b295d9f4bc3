"""How long a micro-batch takes under one choice or another, as far as the choices differ. Nothing here imports torch.

Counted are the products and attention of the decoder's layers and the copies over the host link, which hide behind
them as far as they last. M = B * T tokens, H the hidden size, F the MLP's width.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace

from taigi_lightning.planning.activation_plan import (
    ATTENTION,
    GATE_UP,
    MIDDLE,
    OUTPUT,
    QKV,
    Saving,
    layer_bytes,
    moved_bytes,
)
from taigi_lightning.planning.memory import Shape, packed_layer_bytes

ROW_TOKENS = 2048  # attention is counted in rows of so many, at most
# Measured on an H200 with packed weights of all 40 layers of a 13B arriving while the layer before computes, 8,192
# tokens: 660 ms against 655. The copies take memory bandwidth.
DISTURBANCE = 0.009
# Of the copies in one direction of the link, what copies in the other hold up: measured on an H200 whose copies were
# made as slow as 12 GB/s, with 3.4 GiB of activations leaving and 2.7 GiB of weights arriving in one forward pass.
HELD_UP = 0.4

# How many products with frozen weights take the time of one: in 8 bits 1.7 to 1.9 at a 13B's shapes on an H200.
GAIN = {"fp8": 1.85, "fp8_backward": 1.3, "int8": 1.8, "int8_backward": 1.3, "int8_mixed": 1.6}


@dataclass(frozen=True)
class Machine:
    """What decides whether copies hide: bytes a second from host to card, and floating-point operations a second.

    Beside them bytes of host memory that the card's driver lets be page-locked, which copies need.
    """

    link: float
    rate: float
    lockable: float = math.inf

    def computing_in(self, matmul: str) -> Machine:
        """The same where products are in 8 bits, or, as they were counted, in "bf16"."""
        return replace(self, rate=self.rate * GAIN.get(matmul, 1.0))


# For a plan on another machine: PCIe 3 of 16 lanes, or 4 of 8, and what a middling card reaches in 16 bits.
ASSUMED = Machine(link=12e9, rate=100e12)


def part_operations(shape: Shape, tokens: int) -> dict[str, float]:
    """Floating-point operations of one layer's forward pass, by what they make."""
    queries, pairs = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    hidden, wide = shape.hidden, shape.intermediate
    each = {
        QKV: 2 * hidden * (queries + 2 * pairs),
        ATTENTION: 4 * queries * min(tokens, ROW_TOKENS) // 2,
        MIDDLE: 2 * queries * hidden,
        GATE_UP: 4 * hidden * wide,
        OUTPUT: 2 * wide * hidden,
    }
    return {name: float(operations * tokens) for name, operations in each.items()}


def operations_again(saving: Saving, parts: dict[str, float], sizes: dict[str, int]) -> float:
    """Floating-point operations that one layer's backward pass makes a second time.

    Args:
        parts: `part_operations`.
        sizes: `layer_bytes`, by what a layer may save.
    """
    kept = saving.device | saving.host
    return sum(n for name, n in parts.items() if name in sizes and name not in kept)


class Pace:
    """Seconds of a shape's layers on a machine, for micro-batches of some tokens; loss and optimizer aside."""

    def __init__(self, shape: Shape, tokens: int, machine: Machine) -> None:
        parts = part_operations(shape, tokens)
        self.layers, self.machine = shape.layers, machine
        self.forward = shape.layers * sum(parts.values())
        self.backward = self.forward + 1.5 * shape.layers * parts[ATTENTION]
        self.packed_layer = packed_layer_bytes(shape)

    def seconds(self, again: float, moved: float, on_host: int) -> float:
        """Of one micro-batch, forward and backward.

        Args:
            again: operations of all layers that are made again.
            moved: bytes of activations that leave, and come back.
            on_host: how many layers' packed weights arrive over the link, twice.
        """
        link, rate, arriving = self.machine.link, self.machine.rate, on_host * self.packed_layer
        # Activations leave while weights arrive, the link's two directions; on the way back both arrive.
        copies = max(moved, arriving) + HELD_UP * min(moved, arriving)
        there = max(self.forward / rate, copies / link)
        back = max((self.backward + again) / rate, (moved + arriving) / link)
        return (there + back) * (1 + DISTURBANCE * on_host / self.layers)


def step_seconds(
    savings: list[Saving], on_host: int, shape: Shape, tokens: int, machine: Machine, element_size: int = 2
) -> float:
    """Seconds of a micro-batch forward and backward, loss and optimizer aside.

    Args:
        savings: what each layer keeps for its backward pass.
        on_host: how many layers' packed weights arrive over the link, twice.
    """
    parts, sizes = part_operations(shape, tokens), layer_bytes(shape, tokens, element_size)
    again = moved = 0.0
    for saving, layers in Counter(savings).items():
        again += layers * operations_again(saving, parts, sizes)
        moved += layers * moved_bytes(saving, sizes)
    return Pace(shape, tokens, machine).seconds(again, moved, on_host)


def head_seconds(shape: Shape, tokens: int, machine: Machine, element_size: int = 2) -> float:
    """How much longer the loss takes if the output head waits on the host.

    It arrives twice, first for the normalisers, then for the gradient; its product with the hidden states, else made
    once for both, is made twice.
    """
    size = shape.vocabulary * shape.hidden
    product = 2 * tokens * size / machine.rate
    return max(3 * product, 2 * size * element_size / machine.link) - 2 * product


def prefill_seconds(on_host: int, shape: Shape, tokens: int, machine: Machine) -> float:
    """Seconds of the layers in one pass of prediction over a row of some tokens."""
    forward = shape.layers * sum(part_operations(shape, tokens).values()) / machine.rate
    return max(forward, on_host * packed_layer_bytes(shape) / machine.link)
