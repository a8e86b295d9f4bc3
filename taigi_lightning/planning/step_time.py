"""How long a micro-batch takes under one choice or another, as far as the choices differ. Nothing here imports torch.

Counted are the products and attention of the decoder's layers and the copies over the host link, which hide behind
them as far as they last. M = B * T tokens, H the hidden size, F the MLP's width.
"""

from __future__ import annotations

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
)
from taigi_lightning.planning.memory import Shape, packed_layer_bytes

ROW_TOKENS = 2048  # attention is counted in rows of so many, at most
# Measured on an H200 with packed weights of all 40 layers of a 13B arriving while the layer before computes, 8,192
# tokens: 660 ms against 655. The copies take memory bandwidth.
DISTURBANCE = 0.009


# How many products with frozen weights take the time of one: in 8 bits 1.7 to 1.9 at a 13B's shapes on an H200.
GAIN = {"fp8": 1.85, "fp8_backward": 1.3, "int8": 1.8, "int8_backward": 1.3, "int8_mixed": 1.6}


@dataclass(frozen=True)
class Machine:
    """What decides whether copies hide: bytes a second from host to card, and floating-point operations a second."""

    link: float
    rate: float

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


def step_seconds(
    savings: list[Saving], on_host: int, shape: Shape, tokens: int, machine: Machine, element_size: int = 2
) -> float:
    """Seconds of a micro-batch forward and backward, loss and optimizer aside.

    Args:
        savings: what each layer keeps for its backward pass.
        on_host: how many layers' packed weights arrive over the link, twice.
    """
    parts, sizes = part_operations(shape, tokens), layer_bytes(shape, tokens, element_size)
    forward = shape.layers * sum(parts.values())
    backward = forward + 1.5 * shape.layers * parts[ATTENTION]
    moved = 0
    for saving, layers in Counter(savings).items():
        kept = saving.device | saving.host
        backward += layers * sum(n for name, n in parts.items() if name in sizes and name not in kept)
        moved += layers * sum(sizes[name] for name in saving.host)
    arriving = on_host * packed_layer_bytes(shape)
    # Activations leave while weights arrive, the link's two directions; on the way back both arrive.
    there = max(forward / machine.rate, moved / machine.link, arriving / machine.link)
    back = max(backward / machine.rate, (moved + arriving) / machine.link)
    return (there + back) * (1 + DISTURBANCE * on_host / shape.layers)


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
