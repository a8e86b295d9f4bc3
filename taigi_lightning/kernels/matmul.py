"""Names of what products with frozen 4-bit weights are made in. Nothing here needs PyTorch, so plans read it too."""

from typing import Literal, get_args

# "..._backward" makes those of the gradients alone in 8 bits, and leaves the forward pass in 16.
Matmul = Literal["bf16", "fp8_backward", "fp8", "int8_backward", "int8"]
Format = Literal["fp8", "int8"]
# The compute capabilities that multiply it.
CARDS = {"fp8": "8.9 or more (Ada, Hopper, Blackwell)", "int8": "8.0 or more (Ampere and later)"}


def format_of(matmul: str) -> Format | None:
    """The 8-bit format, None if all is in 16 bits.

    >>> [format_of(matmul) for matmul in get_args(Matmul)]
    [None, 'fp8', 'fp8', 'int8', 'int8']
    """
    return next((name for name in get_args(Format) if matmul.startswith(name)), None)


def forward_in_8_bits(matmul: str) -> bool:
    """Whether the forward pass's products are in 8 bits, and not the gradients' alone.

    >>> [forward_in_8_bits(matmul) for matmul in get_args(Matmul)]
    [False, False, True, False, True]
    """
    return matmul in get_args(Format)
