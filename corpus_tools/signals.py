"""What stops a command: what it says then, and the moment in which it has to wait.

Standard library only: a command takes care of Ctrl-C before it imports anything that is heavy.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

INTERRUPTED = 130  # the exit code that shells give a command stopped by SIGINT
# Ctrl-C, and on Windows Ctrl-Break
KEYS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGBREAK") if hasattr(signal, name))
STOPPING = (*KEYS, signal.SIGTERM)

_command = (0, "")  # the number of its process, and what it leaves behind


def leaves_behind(words: str) -> None:
    """Set what this process, if it is stopped from here on, says of its files; empty: nothing."""
    global _command  # noqa: PLW0603 - a handler is given no argument of ours
    _command = os.getpid(), words


def exit_at_once(number: int, frame: FrameType | None) -> None:
    """End the process, whatever is being done: every file is written aside, and workers end when this process does."""
    process, words = _command
    if os.getpid() == process:  # a worker that has only just been forked goes quietly
        os.write(2, f"stopped by Ctrl-C{words and '; '}{words}.\n".encode())
    os._exit(INTERRUPTED)


def set_handlers(numbers: Sequence[int], handler: Callable[[int, FrameType | None], Any]) -> dict[int, Any]:
    """Let `handler` take these signals, but for those that whoever started this process had ignored (nohup).

    Returns:
        the handlers there were before, for `restore`; outside the main thread, where none can be set, none.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}
    before = {number: signal.getsignal(number) for number in numbers}
    taken = {number: found for number, found in before.items() if found not in (None, signal.SIG_IGN)}
    for number in taken:
        signal.signal(number, handler)
    return taken


def restore(before: dict[int, Any]) -> None:
    """Put back what `set_handlers` returned."""
    for number, handler in before.items():
        signal.signal(number, handler)


@contextmanager
def held_back(afterwards: str) -> Iterator[None]:
    """Let signals that stop a command wait until this block is done, which must happen wholly or not at all.

    Args:
        afterwards: what a stop leaves behind once the block has succeeded, see `leaves_behind`.
    """
    arrived: list[int] = []
    before = set_handlers(STOPPING, lambda number, frame: arrived.append(number))
    try:
        yield
        leaves_behind(afterwards)
    finally:
        restore(before)
        for number in arrived[:1]:
            signal.raise_signal(number)
