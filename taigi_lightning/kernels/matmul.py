"""Names of what products with frozen 4-bit weights are made in. Nothing here needs PyTorch, so plans read it too."""

from typing import Literal, get_args

# "..._backward" makes those of the gradients alone in 8 bits, and leaves the forward pass in 16; "..._mixed" leaves
# what lies along the strongest directions of each input in 16.
Matmul = Literal["bf16", "fp8_backward", "fp8", "int8_backward", "int8_mixed", "int8"]
Format = Literal["fp8", "int8"]
STRONG = 64  # directions of an input: as many columns beside its weights as LoRA of that rank takes
# The first compute capability that multiplies each, and how that is said: int8 is multiplied by older cards too.
LEAST: dict[Format, tuple[int, int]] = {"fp8": (8, 9), "int8": (8, 0)}
BEGINS = {"fp8": "fp8 begins with 8.9 (Ada, Hopper, Blackwell)", "int8": "this begins with 8.0 (Ampere)"}
CARDS = {"fp8": "8.9 or more (Ada, Hopper, Blackwell)", "int8": "8.0 or more (Ampere and later)"}


def format_of(matmul: str) -> Format | None:
    """The 8-bit format, None if all is in 16 bits.

    >>> [format_of(matmul) for matmul in get_args(Matmul)]
    [None, 'fp8', 'fp8', 'int8', 'int8', 'int8']
    """
    return next((name for name in get_args(Format) if matmul.startswith(name)), None)


def forward_in_8_bits(matmul: str) -> bool:
    """Whether the forward pass's products are in 8 bits, and not the gradients' alone.

    >>> [forward_in_8_bits(matmul) for matmul in get_args(Matmul)]
    [False, False, True, False, True, True]
    """
    return format_of(matmul) is not None and not matmul.endswith("_backward")


def strong_directions(matmul: str) -> int:
    """Along how many directions of an input its products stay in 16 bits.

    >>> [strong_directions(matmul) for matmul in ("int8", "int8_mixed")]
    [0, 64]
    """
    return STRONG if matmul.endswith("_mixed") else 0


def capability_fault(name: Format, card: str, found: tuple[int, int]) -> str | None:
    """Why a card of some compute capability cannot multiply a format, or None if it can.

    >>> capability_fault("int8", "Tesla T4", (7, 5))
    'Tesla T4 has compute capability 7.5, and this begins with 8.0 (Ampere)'
    >>> capability_fault("fp8", "NVIDIA L4", (8, 9))
    """
    if found >= LEAST[name]:
        return None
    return f"{card} has compute capability {found[0]}.{found[1]}, and {BEGINS[name]}"
