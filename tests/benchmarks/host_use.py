"""How much host memory a process holds."""

from pathlib import Path


def resident_bytes() -> dict[str, float]:
    """GiB of host memory that this process holds: its own, pinned memory among it, and now with files' pages."""
    status = Path("/proc/self/status").read_text().splitlines()
    kib = {
        key: int(value.split()[0])
        for key, _, value in (line.partition(":") for line in status)
        if "kB" in value
    }
    return {"host_own": round(kib["RssAnon"] / 2**20, 2), "host_peak": round(kib["VmHWM"] / 2**20, 2)}
