"""How much of a machine's own memory a process may still take, and how much of it a GPU's driver lets be page-locked.

Read without torch: `plan` asks before anything is loaded, a run before it moves anything there.
"""

from __future__ import annotations

import ctypes
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from taigi_lightning.windows import lends_host_memory

CONTROL_GROUPS = Path("/sys/fs/cgroup")
OWN_GROUP = Path("/proc/self/cgroup")
# The limit, what is used, and what of that the system takes back at once, in both versions of control groups.
GROUP_FILES = {
    2: ("memory.max", "memory.current", "inactive_file"),
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
LOCKABLE_SHARE = 0.45  # of what is installed


def available_bytes() -> int:
    """Bytes of host memory that this process could still take: what holds files' pages counts.

    The limits of a container, of a batch system's job or of a service count where they are lower.
    """
    if sys.platform == "win32":
        status = _windows_status()
        return min(
            status[2], status[4]
        )  # pages are refused where memory and paging file are all promised, if unused
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


def installed_bytes() -> int:
    """Bytes of memory that the system has, in use or not."""
    if sys.platform == "win32":
        return _windows_status()[1]
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def lockable_bytes(installed: float | None = None) -> float:
    """Bytes of host memory that may be page-locked for a GPU in all; without a limit but where WDDM drives the GPU.

    WDDM counts what is locked as the GPU's shared memory, of which it gives all programs about half of what is
    installed, in WSL of what the virtual machine has; its own buffers are among that.

    Args:
        installed: of another machine; None: what this one has.
    """
    if not lends_host_memory():
        return math.inf
    return LOCKABLE_SHARE * (installed_bytes() if installed is None else installed)


def _windows_status() -> tuple[int, ...]:
    """MEMORYSTATUSEX of sysinfoapi.h from its second word on: load and length, then bytes of physical memory in all and
    available, of memory with the paging file in all and available, of addresses in all and free."""
    if sys.platform != "win32":
        raise NotImplementedError("Only Windows knows GlobalMemoryStatusEx.")
    status = (ctypes.c_uint64 * 8)()
    status[0] = ctypes.sizeof(status)
    if not ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):
        raise ctypes.WinError()
    return tuple(status)
