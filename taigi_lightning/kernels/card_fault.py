"""What a card must be to multiply an 8-bit format."""

from __future__ import annotations

import torch

from taigi_lightning.kernels.matmul import LEAST, Format, capability_fault


def card_fault(name: Format, device: torch.device, dtype: torch.dtype, on_others: str) -> str | None:
    """Why products cannot be in a format on a device where all else is in some dtype, or None if they can.

    Args:
        on_others: what is said of other devices.
    """
    if device.type != "cuda":
        return f"this is a {device.type.upper()}, and {on_others}"
    if torch.version.hip is not None:  # PyTorch calls AMD's cards CUDA devices too
        return f"this is an AMD card, and {on_others}"
    found = torch.cuda.get_device_capability(device)
    card = "" if found >= LEAST[name] else torch.cuda.get_device_name(device)
    if fault := capability_fault(name, card, found):
        return fault
    if dtype != torch.bfloat16:
        return f"all else is in {str(dtype).removeprefix('torch.')}, and its results are in bfloat16 (bf16-mixed)"
    return None
