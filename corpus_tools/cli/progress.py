"""How far a run is, on the terminal or in a log."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress() -> Iterator[Callable[[str, int, int], None]]:
    """A bar on a terminal, a line at every tenth of a step elsewhere."""
    if not sys.stderr.isatty():

        def line(step: str, done: int, total: int) -> None:
            if done == total or done * 10 // total > (done - 1) * 10 // total:
                print(f"{step}: {done} of {total}", file=sys.stderr)

        yield line
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True, auto_refresh=False) as bars:
        tasks = {}

        def bar(step: str, done: int, total: int) -> None:
            if step not in tasks:
                tasks[step] = bars.add_task(step, total=total)
            bars.update(tasks[step], completed=done, refresh=True)

        yield bar
