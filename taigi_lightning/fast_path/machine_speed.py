"""What decides whether copies from the host hide behind computation, measured in a moment at a run's start."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import torch

from taigi_lightning.fast_path.eight_bit_weights import FORMATS
from taigi_lightning.kernels.available_memory import lockable_bytes
from taigi_lightning.kernels.host_memory import host_tensor
from taigi_lightning.kernels.matmul import Matmul, format_of, forward_in_8_bits
from taigi_lightning.kernels.triton_support import triton_fault
from taigi_lightning.planning.step_time import Machine

COPIED = 64 * 2**20  # bytes
SIZE = 4096  # of the square matrices multiplied
# Of a short burst of products, what those of a long step reach: 690 of 810 TFLOP/s on an H200, where power binds them.
# With all else that layers do a step reaches 0.70 of it there, 0.67 on an H100. Rather too much is counted than too
# little: a card taken for slower than it is moves more than its link carries (tests/benchmarks/rate_regret.py).
SUSTAINED = 0.85
LEAST_GAIN = (
    1.1  # of products in 8 bits, below which rounding buys nothing: they quantise what they multiply as well
)


@cache
def measure_machine(device: torch.device, dtype: torch.dtype, matmul: Matmul = "bf16") -> Machine:
    """The host link's bytes a second towards a card, and the floating-point operations a second of long products.

    Args:
        matmul: where the forward pass is in 8 bits, products are counted in those, of results in dtype.

    Takes a tenth of a second and 100 MiB of the card, given back at once. A CPU has no link: copies cost nothing.
    """
    if device.type != "cuda":
        return Machine(link=math.inf, rate=1.0)
    host = host_tensor((COPIED,), torch.uint8)
    there = torch.empty(COPIED, dtype=torch.uint8, device=device)
    link = COPIED / _seconds(lambda: there.copy_(host, non_blocking=True))
    a, b = torch.randn(2, SIZE, SIZE, device=device).to(dtype)
    multiply: Callable[[], object] = lambda: torch.mm(a, b)  # noqa: E731
    name = format_of(matmul)
    if name is not None and forward_in_8_bits(matmul):
        form, fused = FORMATS[name], triton_fault() is None
        rounded = *form.quantise_rows(a, fused), *form.quantise_rows(b, fused)
        multiply = lambda: form.product(*rounded, dtype, None, fused)  # noqa: E731
    rate = SUSTAINED * 2 * SIZE**3 / _seconds(multiply)
    return Machine(link=link, rate=rate, lockable=lockable_bytes())


def slow_products(matmul: Matmul, device: torch.device, dtype: torch.dtype) -> str | None:
    """A sentence where products in 8 bits are hardly faster on a card than those of dtype, or None.

    Not every generation multiplies 8 bits faster, and no kernel of ours was measured on all of them.
    """
    name = format_of(matmul)
    if name is None or device.type != "cuda":
        return None
    gain = measure_machine(device, dtype, name).rate / measure_machine(device, dtype).rate
    if gain >= LEAST_GAIN:
        return None
    return (
        f"products in {name} take {1 / gain:.2f} times as long as those in 16 bits on this card: --model.matmul bf16 "
        "is exact, and no slower"
    )


def _seconds(work: Callable[[], object], times: int = 5) -> float:
    """The shortest of some runs of what a function queues on the current device, after one that does not count."""
    work()
    found: list[float] = []
    for _ in range(times):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        work()
        end.record()
        end.synchronize()
        found.append(start.elapsed_time(end) / 1000)
    return min(found)
