"""What a card could do at best, for the utilisation that training logs."""

import warnings

import torch
from lightning.fabric.utilities.throughput import get_available_flops

# Dense products in 16 bits that NVIDIA's data sheets give, for cards that Lightning does not know, by a part of the
# name that CUDA reports; of two that fit, the first counts.
NAMED = {
    "h200 nvl": 835.5e12,
    "gh200": 989.4e12,
    "h200": 989.4e12,
    "h800": 989.4e12,
    "gb200": 2500e12,
    "b200": 2250e12,
    "a800": 312e12,
    "l40s": 362e12,
    "rtx 6000 ada": 364.2e12,
    "rtx 5090": 209.5e12,
}
# The same of one multiprocessor in one clock, by compute capability (NVIDIA's whitepapers of each architecture);
# GeForce cards since Ampere do half of it where they add in float32.
A_CLOCK = {(8, 0): 2048, (8, 6): 1024, (8, 9): 1024, (9, 0): 4096, (10, 0): 8192, (12, 0): 1024}
SIXTEEN_BITS = (torch.bfloat16, torch.float16)


def peak_flops(device: torch.device, dtype: torch.dtype) -> float | None:
    """FLOPs a second of a GPU's dense products in dtype, or None if nothing is known of it."""
    properties = torch.cuda.get_device_properties(device)
    return lightnings_flops(device, dtype) or estimated_flops(
        properties.name,
        torch.cuda.get_device_capability(device),
        properties.multi_processor_count,
        1e3 * getattr(properties, "clock_rate", 0),  # kHz, where PyTorch tells
        dtype,
    )


def lightnings_flops(device: torch.device, dtype: torch.dtype) -> float | None:
    """From Lightning's own table, without its warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return get_available_flops(device, dtype)


def estimated_flops(
    name: str, capability: tuple[int, int], multiprocessors: int, clock: float, dtype: torch.dtype
) -> float | None:
    """From a card's name, or else from what it is made of; clock in Hz, 0 if unknown.

    >>> estimated_flops("NVIDIA H200", (9, 0), 132, 0.0, torch.bfloat16)
    989400000000000.0
    >>> round(estimated_flops("NVIDIA GeForce RTX 4070", (8, 9), 46, 2.475e9, torch.bfloat16) / 1e12, 1)
    58.3
    """
    if dtype not in SIXTEEN_BITS:
        return None
    known = next((flops for part, flops in NAMED.items() if part in name.lower()), None)
    if known is not None:
        return known
    half = 2 if "geforce" in name.lower() and capability >= (8, 6) else 1
    return multiprocessors * clock * A_CLOCK.get(capability, 0) / half or None
