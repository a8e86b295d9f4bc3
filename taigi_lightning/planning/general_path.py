"""What one decoder layer takes on the general path: transformers' own forward pass, each projection one product.

Checked against what autograd really saves in tests/taigi_lightning/planning/test_general_path.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from taigi_lightning.planning.activation_plan import slice_tokens
from taigi_lightning.planning.memory import Shape

FLOAT32 = 4  # bytes
MARGIN = 0.06  # of the card, to leave free: measured peaks lie within it of what is counted


def saved_bytes(
    shape: Shape,
    rows: int,
    columns: int,
    rank: int,
    element_size: int = 2,
    joined: bool = True,
    masked: bool = False,
) -> int:
    """Bytes that autograd keeps of one layer for its backward pass, where nothing is computed again.

    Of each norm its input, and of two the results, which projections take; q, k and v as attention takes them, what
    it gives and its log-sums; gate and up; LoRA's hidden activations.

    Args:
        rows, columns: B and T of the micro-batch.
        joined: the MLP is one operation, which does not keep gate's activation and the product beside.
        masked: no flash attention can be used: k and v are repeated for every query head, with the mask (B, 1, T, T).
    """
    queries, pairs = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    norms = (shape.norms + 2) * shape.hidden * element_size
    if shape.head_norm:
        norms += (queries + pairs) * element_size
    attended = 4 * queries + columns if masked else 2 * (queries + pairs)
    attention = attended * element_size + FLOAT32 * shape.heads
    wide = (2 if joined else 4) * shape.intermediate * element_size
    return rows * columns * (norms + attention + wide + 7 * rank * element_size)


def layer_peak_bytes(
    shape: Shape, rows: int, columns: int, rank: int, saved: int, element_size: int = 2
) -> int:
    """Bytes at the peak of one layer's backward pass, with what it saved or computed again.

    Largest at the down projection: gradients of its input, direct and through LoRA, that input with dropout,
    and the weight dequantised with LoRA's columns beside it.
    """
    transient = (3 * shape.intermediate + shape.hidden) * rows * columns
    weight = shape.intermediate * (shape.hidden + rank)
    return saved + (transient + weight) * element_size


def takes_mask(shape: Shape, precision: str) -> bool:
    """Whether attention takes a whole mask for lack of a flash kernel, in Lightning's precision of that name.

    Cards that have none compute in float16; for 32 bits there is none.
    """
    return shape.masked or precision != "bf16-mixed"


def mask_bytes(rows: int, columns: int) -> int:
    """Bytes of the mask (B, 1, T, T), bool, that transformers makes for all layers of packed documents."""
    return rows * columns**2


def input_bytes(shape: Shape, tokens: int, element_size: int = 2) -> int:
    """Bytes of a layer's input, all that checkpointing keeps of a layer."""
    return tokens * shape.hidden * element_size


def loss_bytes(rows: int, columns: int, hidden: int, vocabulary: int, element_size: int = 2) -> int:
    """As `activation_plan.loss_bytes`, for an architecture whose `Shape` may not be known."""
    logits = min(slice_tokens(vocabulary), rows * columns) * vocabulary
    return (3 * rows * columns * hidden + logits) * element_size


# ---- which layers keep everything ------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """What a micro-batch (B, T) took while every layer was checkpointed, or will take; bytes.

    Args:
        rows, columns: B and T.
        layers: what each layer, in the order in which they run, keeps beside its input where it is not checkpointed.
        last: of that, what the pass keeps that ran last.
        at_loss: taken at the peak from the end of the layers' forward pass to where their backward pass begins.
        in_backward: taken at the peak after that.
        coming: of gradients and optimizer state that were still to be made.
    """

    rows: int
    columns: int
    layers: tuple[int, ...]
    last: int = 0
    at_loss: int = 0
    in_backward: int = 0
    coming: int = 0

    def covers(self, rows: int, columns: int) -> bool:
        """Whether other micro-batches take no more: attention may keep something for each pair of a row's tokens."""
        return rows * columns <= self.rows * self.columns and columns <= self.columns


def layers_kept(measured: Measured, tokens: int, usable: float) -> int:
    """How many layers may keep everything, from the last one backwards.

    All that they keep is there at the loss. In the backward pass of the last layer it is there as well, but that
    layer's own is in the peak that was measured; those before it find less.

    Args:
        tokens: of the micro-batch, at most as many as were measured: what layers keep falls with them.
        usable: bytes of the device that may be taken in all.

    >>> layers_kept(Measured(1, 8, (20, 20, 10), last=10, at_loss=50, in_backward=60), 8, usable=85)
    2
    """
    share = tokens / (measured.rows * measured.columns)
    usable -= measured.coming
    beside = max(measured.at_loss, measured.in_backward - measured.last * share)
    return layers_within(measured.layers, (usable - beside) / share)


def layers_within(layers: tuple[int, ...], headroom: float) -> int:
    """How many layers, from the last one backwards, keep no more than so many bytes together.

    >>> layers_within((5, 4, 3), 7), layers_within((5, 4, 3), 12.0), layers_within((5, 4, 3), -1)
    (2, 3, 0)
    """
    count = total = 0
    for size in reversed(layers):
        total += size
        if total > headroom:
            break
        count += 1
    return count
