"""What of this machine makes a run slower than it could be, each said once."""

from __future__ import annotations

import sys

import torch

from taigi_lightning.fast_path.device_memory import hold_to_own_memory
from taigi_lightning.kernels.triton_support import plain_operations

OWN_MEMORY = (
    "held to the {size:.1f} GiB of the card's own memory that are free: Windows would lend host memory beyond it as "
    "shared GPU memory, and the run would crawl rather than end"
)
ONE_OF_SEVERAL = "one of {count} GPUs, since PyTorch for Windows has no NCCL to let several train together"


def machine_notes(device: torch.device, compile: bool | None) -> list[str]:
    """Lines for a run's summary.

    Args:
        device: where the model is.
        compile: the config's setting; None asks for kernels on a GPU.
    """
    count = torch.cuda.device_count() if device.type == "cuda" else 1
    held = hold_to_own_memory(device)
    lines = [
        plain_operations(device.type == "cuda", compile is not False),
        None if held is None else OWN_MEMORY.format(size=held / 2**30),
        ONE_OF_SEVERAL.format(count=count) if sys.platform == "win32" and count > 1 else None,
    ]
    return [line for line in lines if line]
