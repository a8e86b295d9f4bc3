"""How much host memory there is, and how much of it may be page-locked."""

import math
from pathlib import Path

import pytest

from taigi_lightning.kernels import available_memory
from taigi_lightning.kernels.available_memory import available_bytes, installed_bytes, lockable_bytes

GROUPS = {
    2: ("0::/{path}", "", {"memory.max": "{limit}", "memory.current": "3000000"}, "inactive_file"),
    1: (
        "9:cpu,memory:/{path}", "memory", {"memory.limit_in_bytes": "{limit}", "memory.usage_in_bytes": "3000000"},
        "total_inactive_file",
    ),
}  # fmt: skip


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    ("seen", "limited", "left"),
    [
        ("", "", 3500000),  # a container's own root
        ("job/step", "job/step", 3500000),  # a batch system's group, which holds the process
        ("job/step", "job", 3500000),  # or one above it
        ("host/only", "", 3500000),  # a container that sees its path on the host
        ("job/step", "other", None),
    ],
)
def test_a_control_groups_limit_counts_where_it_is_lower(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: int, seen: str, limited: str, left: int | None
) -> None:
    line, root, files, reclaimable = GROUPS[version]
    monkeypatch.setattr(available_memory, "CONTROL_GROUPS", tmp_path / "fs")
    monkeypatch.setattr(available_memory, "OWN_GROUP", tmp_path / "cgroup")
    assert available_bytes() > 5000000
    (tmp_path / "cgroup").write_text(f"3:cpuset:/elsewhere\n{line.format(path=seen)}\n")
    for folder in ({seen, limited, "job"} if seen != "host/only" else {""}) | {"other"}:
        group = tmp_path / "fs" / root / folder
        group.mkdir(parents=True, exist_ok=True)
        limit = "5000000" if folder == limited else "max" if version == 2 else str(2**63 - 4096)
        for name, text in files.items():
            (group / name).write_text(text.format(limit=limit) + "\n")
        (group / "memory.stat").write_text(f"anon 1000000\n{reclaimable} 1500000\n")
    found = available_bytes()
    assert found == left if left is not None else found > 5000000


def test_where_windows_drives_the_gpu_less_than_half_of_what_is_installed_may_be_locked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert available_bytes() <= installed_bytes()
    monkeypatch.setattr(available_memory, "lends_host_memory", lambda: False)
    assert lockable_bytes() == math.inf
    monkeypatch.setattr(available_memory, "lends_host_memory", lambda: True)
    assert 0.4 * installed_bytes() < lockable_bytes() < 0.5 * installed_bytes()
    assert lockable_bytes(16e9) == pytest.approx(7.2e9)
