"""What a card must be to multiply an 8-bit format."""

from __future__ import annotations

import torch


def card_fault(
    device: torch.device, dtype: torch.dtype, least: tuple[int, int], on_others: str, begins: str
) -> str | None:
    """Why products cannot be in a format on a device where all else is in some dtype, or None if they can.

    Args:
        least: the compute capability that multiplies it.
        on_others, begins: what is said of other devices, and of older cards.
    """
    if device.type != "cuda":
        return f"this is a {device.type.upper()}, and {on_others}"
    if torch.version.hip is not None:  # PyTorch calls AMD's cards CUDA devices too
        return f"this is an AMD card, and {on_others}"
    found = torch.cuda.get_device_capability(device)
    if found < least:
        name = torch.cuda.get_device_name(device)
        return f"{name} has compute capability {found[0]}.{found[1]}, and {begins}"
    if dtype != torch.bfloat16:
        return f"all else is in {str(dtype).removeprefix('torch.')}, and its results are in bfloat16 (bf16-mixed)"
    return None
