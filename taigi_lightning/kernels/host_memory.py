"""Host memory that a GPU's copy engine reads by itself: page-locked, and of exactly the size that was asked for.

PyTorch's own allocator of pinned memory rounds every request up to a power of two, which would cost a 4-bit 13B
3 GiB of host memory. So pages are mapped here and registered with CUDA.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

CONTROL_GROUPS = Path("/sys/fs/cgroup")
OWN_GROUP = Path("/proc/self/cgroup")
# The limit, what is used, and what of that the system takes back at once, in both versions of control groups.
GROUP_FILES = {
    2: ("memory.max", "memory.current", "inactive_file"),
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
UNPINNED = (
    "Host memory cannot be page-locked here (CUDA answers {reason}), so what is copied from it holds the GPU up: "
    "the same numbers, but slower. Allow more locked memory (`ulimit -l` or a container's `--ulimit memlock=-1`; "
    "under WSL, .wslconfig's `memory`), or let less wait on the host: --model.weights_on_host none."
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


def available_bytes() -> int:
    """Bytes of host memory that this process could still take: what holds files' pages counts.

    The limits of a container, of a batch system's job or of a service count where they are lower.
    """
    if sys.platform == "win32":
        return _available_on_windows()
    found = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    meminfo = Path("/proc/meminfo")
    for line in meminfo.read_text(encoding="ascii").splitlines() if meminfo.exists() else []:
        if line.startswith("MemAvailable:"):
            found = int(line.split()[1]) * 1024
    return min([found, *_left_in_groups()])


def _left_in_groups() -> Iterator[int]:
    """Bytes that are left under the limit of each control group that holds this process, from its own up."""
    lines = OWN_GROUP.read_text(encoding="ascii").splitlines() if OWN_GROUP.exists() else []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        version = 1 if controllers else 2
        root = CONTROL_GROUPS / "memory" if version == 1 else CONTROL_GROUPS
        place = root / path.lstrip("/")
        # Seen from inside a container the path may be the host's, and its own group is the root.
        for folder in (place, *place.parents) if place.is_dir() else (root,):
            yield from _left_in(folder, *GROUP_FILES[version])
            if folder == root:
                break


def _left_in(group: Path, limit: str, used: str, reclaimable: str) -> Iterator[int]:
    try:
        read = {name: (group / name).read_text(encoding="ascii") for name in (limit, used, "memory.stat")}
        counted = dict(line.split() for line in read["memory.stat"].splitlines())
    except OSError:  # the root has no limit
        return
    if (allowed := read[limit].strip()) != "max":
        yield max(0, int(allowed) - int(read[used]) + int(counted.get(reclaimable, 0)))


def _available_on_windows() -> int:
    """What Windows says of physical memory, in MEMORYSTATUSEX of sysinfoapi.h."""
    if sys.platform != "win32":
        raise NotImplementedError("Only Windows knows GlobalMemoryStatusEx.")
    status = (ctypes.c_uint64 * 8)()  # dwLength and dwMemoryLoad, ullTotalPhys, ullAvailPhys, and five more
    status[0] = ctypes.sizeof(status)
    if not ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):
        raise ctypes.WinError()
    return int(status[2])


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
