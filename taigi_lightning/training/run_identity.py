"""Which run a folder and a checkpoint belong to: a chain of starts, each with its settings, seed and data."""

from __future__ import annotations

import json
import secrets
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from taigi_lightning.atomic_write import write_json
from taigi_lightning.errors import InputError

RUN = "run.json"


@dataclass(frozen=True)
class Start:
    """One start of a run.

    Args:
        id: told apart by this from every other start.
        time: when, UTC, ISO 8601 to the second.
        step: after how many optimizer steps it began; 0 but for a resumed run.
        seed: of `seed_everything`; None where none was set.
        settings: a digest of the settings that were compared with the checkpoint's.
        data: a digest of the training data; empty for data that have none.
    """

    id: str
    time: str
    step: int
    seed: int | None
    settings: str
    data: str


@dataclass(frozen=True)
class Run:
    """A run with all its starts, first to last, whether it ended, and its id at Weights & Biases if it logs there."""

    starts: tuple[Start, ...]
    finished: bool = False
    wandb: str = ""

    @classmethod
    def from_plain(cls, value: dict[str, Any]) -> Run:
        """Read back `as_plain`."""
        starts = tuple(Start(**start) for start in value["starts"])
        return cls(starts, bool(value["finished"]), value.get("wandb", ""))

    def as_plain(self) -> dict[str, Any]:
        """Plain values, for JSON and for a checkpoint that loads without pickle."""
        return {
            "starts": [asdict(start) for start in self.starts],
            "finished": self.finished,
            "wandb": self.wandb,
        }

    def continues(self, other: Run | None, step: int) -> bool:
        """Whether this run went through the checkpoint that `other` wrote after `step` optimizer steps.

        A run that was resumed from an earlier checkpoint left the later ones behind: these lead elsewhere.
        """
        if other is None:
            return False
        count = len(other.starts)
        if [start.id for start in other.starts] != [start.id for start in self.starts[:count]]:
            return False
        return count == len(self.starts) or step <= self.starts[count].step

    def in_words(self) -> str:
        """When it began, as the end of a sentence."""
        began, last = self.starts[0], self.starts[-1]
        resumed = f" and was resumed at step {last.step} on {last.time}" if len(self.starts) > 1 else ""
        return f"began on {began.time}{resumed}"


def begin(earlier: Run | None, *, step: int, seed: int | None, settings: str, data: str) -> Run:
    """A new run, or `earlier` with one more start at `step`."""
    time = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")
    start = Start(secrets.token_hex(8), time, step, seed, settings, data)
    return Run((*(earlier.starts if earlier else ()), start))


def read_run(root: Path) -> Run | None:
    """The run that a folder holds, or None where none is recorded.

    Raises:
        InputError: run.json is there and cannot be read.
    """
    path = root / RUN
    if not path.is_file():
        return None
    try:
        return Run.from_plain(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} cannot be read ({type(error).__name__}). Name the checkpoint to go on from with --ckpt_path, or "
            "move the file away: then `last` takes the newest checkpoint of any run."
        ) from error


def write_run(root: Path, run: Run) -> None:
    """Write run.json."""
    write_json(root / RUN, run.as_plain())
