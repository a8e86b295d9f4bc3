"""Processes that are loaded together and then time their steps in turn, so that none measures another's warming up."""

import time
from collections.abc import Callable
from pathlib import Path


def wait_for_turn(folder: Path, name: str, turn: int, patience: float = 300) -> None:
    """Say that a process has warmed up, or is done with the turn before, and wait to be called.

    Raises:
        TimeoutError: nobody called within `patience` seconds.
    """
    (folder / f"{name}.{turn}.ready").touch()
    end = time.monotonic() + patience
    while not (folder / f"{name}.{turn}.go").exists():
        if time.monotonic() > end:
            raise TimeoutError(f"{name} was not called for turn {turn} within {patience} s")
        time.sleep(0.02)


def call_in_turn(
    folder: Path, names: list[str], turns: int, alive: Callable[[str], bool], patience: float
) -> None:
    """Call each process once a turn, one after the other; one that has ended is passed over."""
    end = time.monotonic() + patience

    def ready(name: str, turn: int) -> bool:
        while not (folder / f"{name}.{turn}.ready").exists():
            if not alive(name) or time.monotonic() > end:
                return False
            time.sleep(0.05)
        return True

    waiting = [name for name in names if ready(name, 0)]
    for turn in range(turns):
        for name in waiting:
            if alive(name):
                (folder / f"{name}.{turn}.go").touch()
                ready(name, turn + 1)  # after its last turn a process only ends
