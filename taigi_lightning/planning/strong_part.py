"""Bytes of the directions along which products stay in 16 bits: see `fast_path/strong_directions.py`."""

from taigi_lightning.kernels.matmul import strong_directions
from taigi_lightning.planning.memory import Shape
from taigi_lightning.planning.needs import Part


def strong_part(matmul: str, shape: Shape, element_size: int = 2) -> Part:
    """Those of every input of the layers' projections, and what these make of them; 0 bytes where there are none.

    They take what LoRA of that rank would on four projections: q, k and v as one, o, gate and up as one, and down.
    """
    count = strong_directions(matmul)
    outputs = sum(linear.outputs for linear in shape.linears)
    size = checkpoint_bytes(matmul, shape, element_size) + count * shape.layers * outputs * element_size
    return Part("strongest directions", size, f"{count} of each input, 16 bits")


def checkpoint_bytes(matmul: str, shape: Shape, element_size: int = 2) -> int:
    """What of them each checkpoint holds: the directions alone."""
    inputs = 2 * shape.hidden + shape.heads * shape.head_size + shape.intermediate
    return strong_directions(matmul) * shape.layers * inputs * element_size
