"""What a device computes well."""

from __future__ import annotations

import torch


def best_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 on a GPU that has it, float16 on older ones, float32 on a CPU."""
    if device.type == "cpu":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
