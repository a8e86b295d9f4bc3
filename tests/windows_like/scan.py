"""Names that could not lie on a Windows disk, for what is written past Python's own functions."""

from pathlib import Path

FORBIDDEN = set('<>:"|?*\\')
DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))}


def illegal_names(folder: Path) -> list[Path]:
    """Every path below a folder that Windows would refuse, and every second one that differs in case alone."""
    seen: set[str] = set()
    found = []
    for path in sorted(folder.rglob("*")):
        name = path.name
        if (
            set(name) & FORBIDDEN
            or name[-1] in ". "
            or name.partition(".")[0].lower() in DEVICES
            or str(path).lower() in seen
        ):
            found.append(path)
        seen.add(str(path).lower())
    return found
