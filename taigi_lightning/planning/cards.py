"""What a plan must know of the GPUs of this machine, or of one that is only named. The driver is asked, not torch."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

# Older drivers do not know what a card computes: the second question is for them.
FIELDS = ("index,uuid,memory.total,memory.used,compute_cap,name", "index,uuid,memory.total,memory.used,name")


@dataclass(frozen=True)
class Card:
    """One GPU: its name, the bytes of its own memory, and what it computes.

    Args:
        compute_capability: such as "8.9"; None where it is not known.
        taken_bytes: of its memory, by the desktop and other programs now.
    """

    name: str
    memory_bytes: int
    compute_capability: str | None = None
    taken_bytes: int = 0

    @property
    def free_bytes(self) -> int:
        """What a run may take."""
        return self.memory_bytes - self.taken_bytes

    @property
    def capability(self) -> tuple[int, int] | None:
        """The compute capability as numbers."""
        return None if self.compute_capability is None else parse_capability(self.compute_capability)


def parse_capability(text: str) -> tuple[int, int]:
    """A compute capability's two numbers.

    >>> parse_capability("8.9"), parse_capability("12.0")
    ((8, 9), (12, 0))
    """
    major, _, minor = text.partition(".")
    return int(major), int(minor)


def found_cards() -> list[Card]:
    """The GPUs here that a process may see, in the driver's order."""
    if not shutil.which("nvidia-smi"):
        return []
    for fields in FIELDS:
        query = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
        done = subprocess.run(query, capture_output=True, encoding="utf-8", errors="replace", check=False)
        if done.returncode == 0:
            return read_cards(done.stdout, fields, os.environ.get("CUDA_VISIBLE_DEVICES"))
    return []


def read_cards(answer: str, fields: str, visible: str | None) -> list[Card]:
    """The cards of nvidia-smi's answer, one a line.

    Args:
        fields: what was asked for, separated by commas; the name last, which may hold a comma.
        visible: CUDA_VISIBLE_DEVICES, numbers or beginnings of UUIDs; None: all are.
    """
    names = fields.split(",")
    rows = [[cell.strip() for cell in line.split(",", len(names) - 1)] for line in answer.splitlines()]
    found = [dict(zip(names, row, strict=True)) for row in rows if len(row) == len(names)]
    if visible is not None:
        chosen = [one.strip() for one in visible.split(",") if one.strip()]
        found = [row for one in chosen for row in found if row["index"] == one or _begins(row["uuid"], one)]
    return [_card(row) for row in found if row["memory.total"].isdigit()]


def _begins(uuid: str, beginning: str) -> bool:
    return beginning.startswith("GPU-") and uuid.startswith(beginning)


def _card(row: dict[str, str]) -> Card:
    capability = row.get("compute_cap", "")
    known = capability.replace(".", "", 1).isdigit()
    used = row["memory.used"]
    return Card(
        row["name"],
        int(row["memory.total"]) * 2**20,
        capability if known else None,
        int(used) * 2**20 if used.isdigit() else 0,
    )


def smallest(cards: Sequence[Card], devices: object) -> Card | None:
    """Of the cards that a run would take the one with least memory free; None where there is none.

    Where it wants others than are here, those here count: it may be meant for another machine.

    Args:
        devices: `trainer.devices`: how many, which, or "auto".

    >>> cards = [Card("a", 3), Card("b", 1), Card("c", 2)]
    >>> [smallest(cards, d).name for d in (1, [0, 2], "0,2", "auto", -1, 4)]
    ['a', 'c', 'c', 'b', 'b', 'b']
    """
    numbers = devices.split(",") if isinstance(devices, str) and "," in devices else devices
    if isinstance(numbers, list):
        taken = [cards[int(n)] for n in numbers if str(n).strip().isdigit() and int(n) < len(cards)]
    else:
        count = int(numbers) if isinstance(numbers, (int, str)) and str(numbers).isdigit() else len(cards)
        taken = list(cards[:count])
    return min(taken or cards, key=lambda card: card.free_bytes, default=None)
