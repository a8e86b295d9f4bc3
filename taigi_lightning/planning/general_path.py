"""What one decoder layer takes on the general path: transformers' own forward pass, each projection one product.

Checked against what autograd really saves in tests/taigi_lightning/planning/test_general_path.py.
"""

from __future__ import annotations

from taigi_lightning.planning.memory import Shape

FLOAT32 = 4  # bytes: norms compute in it, whatever the rest does
MARGIN = 0.06  # of the card, to leave free: measured peaks lie within it of what is counted


def saved_bytes(shape: Shape, rows: int, columns: int, rank: int, element_size: int = 2) -> int:
    """Bytes that autograd keeps of one layer for its backward pass, where nothing is computed again.

    Of each norm its input in float32 and its root mean square; two norms' results, which projections take; q, k
    and v as attention takes them, k and v repeated for every query head, with the mask (B, 1, T, T), what it
    gives and its log-sums; gate, its activation, up and their product; LoRA's hidden activations.

    Args:
        rows, columns: B and T of the micro-batch.
    """
    queries, pairs = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    norms = shape.norms * (shape.hidden + 1) * FLOAT32 + 2 * shape.hidden * element_size
    if shape.head_norm:
        norms += (queries + pairs + shape.heads + shape.kv_heads) * FLOAT32
    attention = (4 * queries + columns) * element_size + FLOAT32 * shape.heads
    wide = 4 * shape.intermediate * element_size
    return rows * columns * (norms + attention + wide + 7 * rank * element_size)


def layer_peak_bytes(shape: Shape, rows: int, columns: int, rank: int, element_size: int = 2) -> int:
    """Bytes at the peak of one layer's backward pass, with what it saved or computed again.

    Largest at the down projection: gradients of its input, direct and through LoRA, that input with dropout,
    and the weight dequantised with LoRA's columns beside it.
    """
    transient = (3 * shape.intermediate + shape.hidden) * rows * columns
    weight = shape.intermediate * (shape.hidden + rank)
    return saved_bytes(shape, rows, columns, rank, element_size) + (transient + weight) * element_size


def input_bytes(shape: Shape, tokens: int, element_size: int = 2) -> int:
    """Bytes of a layer's input, all that checkpointing keeps of a layer."""
    return tokens * shape.hidden * element_size
