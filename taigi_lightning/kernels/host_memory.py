"""Host memory that a GPU's copy engine reads by itself: page-locked, and of exactly the size that was asked for.

PyTorch's own allocator of pinned memory rounds every request up to a power of two, which would cost a 4-bit 13B
3 GiB of host memory. So pages are mapped here and registered with CUDA.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

UNPINNED = (
    "Host memory cannot be page-locked here (CUDA answers {reason}), so what is copied from it holds the GPU up: "
    "the same numbers, but slower. Allow more locked memory (`ulimit -l` or a container's `--ulimit memlock=-1`; "
    "under WSL, .wslconfig's `memory`; Windows locks about half of what is installed), or let less wait on the host: "
    "--model.weights_on_host none."
)


class _Pages(mmap.mmap):
    """Mapped pages that are unregistered before they are unmapped."""

    registered = 0  # their address, if CUDA knows them

    def __del__(self) -> None:
        if self.registered:
            torch.cuda.cudart().cudaHostUnregister(self.registered)  # type: ignore[no-untyped-call]


def host_tensor(shape: torch.Size | tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """An uninitialised tensor on the host, page-locked where there is a GPU.

    Where memory cannot be locked it is plain memory, and a warning says so: copies are correct but not asynchronous.
    """
    size = torch.Size(shape).numel() * dtype.itemsize
    if size == 0 or not torch.cuda.is_available():
        return torch.empty(shape, dtype=dtype)
    pages = _mapped(size)
    _register(pages, size)
    return torch.frombuffer(pages, dtype=dtype).view(shape)


def mapped_tensor(descriptor: int, size: int) -> Tensor:
    """The first bytes of a file as a tensor (size,) uint8: what one process writes there, all that map it read.

    Page-locked where there is a GPU, as of `host_tensor`; mapped until the last tensor over it is gone.
    """
    if sys.platform == "win32":
        raise NotImplementedError("Ranks share memory on Linux alone.")
    pages = _Pages(descriptor, size, flags=mmap.MAP_SHARED)
    if torch.cuda.is_available():
        _register(pages, size)
    return torch.frombuffer(pages, dtype=torch.uint8)


def _mapped(size: int) -> _Pages:
    if sys.platform == "win32":
        return _Pages(-1, size)
    return _Pages(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def _register(pages: _Pages, size: int) -> None:
    address = ctypes.addressof(ctypes.c_char.from_buffer(pages))
    runtime: Any = torch.cuda.cudart()  # type: ignore[no-untyped-call]
    code = int(runtime.cudaHostRegister(address, size, 0))
    if code == 0:
        pages.registered = address
        return
    _forget_error()
    warnings.warn(UNPINNED.format(reason=f"error {code}"), stacklevel=3)


def _forget_error() -> None:
    """Take back what a refused call left with CUDA: the next check of a kernel would take it for its own."""
    with suppress(RuntimeError):
        torch.empty(1, device="cuda").fill_(0.0)


def to_host(tensor: Tensor) -> Tensor:
    """A copy of a tensor in such memory."""
    host = host_tensor(tensor.shape, tensor.dtype)
    return host.copy_(tensor)


# ---- modules whose weights wait there --------------------------------------------------------------


def hold_in_place(module: nn.Module) -> None:
    """Let a module's tensors stay where they are when the model around it moves to a device, or back."""
    module._apply = partial(_stay, module)  # type: ignore[method-assign]


def let_move(module: nn.Module) -> None:
    """Undo `hold_in_place`."""
    module.__dict__.pop("_apply", None)


def held_in_place(module: nn.Module) -> bool:
    """Whether `hold_in_place` counts for a module."""
    return "_apply" in module.__dict__


def waiting_parameters(model: nn.Module) -> list[str]:
    """Names of the parameters of modules for which `hold_in_place` counts."""
    return [
        f"{name}.{parameter}" if name else parameter
        for name, module in model.named_modules()
        if held_in_place(module)
        for parameter, _ in module.named_parameters(recurse=False)
    ]


@contextmanager
def at_hand(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Let held 4-bit modules be called by who knows nothing of the host: each weight comes for its own pass alone."""
    hosts: dict[nn.Module, Tensor] = {}

    def fetch(module: Any, *_: Any) -> None:
        hosts[module] = module.weight.data
        module.weight.data = module.weight.data.to(device, copy=True)

    def drop(module: Any, *_: Any) -> None:
        module.weight.data = hosts.pop(module)

    handles = []
    for module in model.modules():
        if held_in_place(module):
            handles += [module.register_forward_pre_hook(fetch), module.register_forward_hook(drop)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for module in list(hosts):  # whose pass was broken off
            drop(module)


def _stay(module: nn.Module, *_: Any, **__: Any) -> nn.Module:
    return module
