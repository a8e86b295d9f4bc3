"""What SIGINT (Ctrl-C) and SIGTERM do to a command: it ends with 130 or 143, one line and no traceback."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

STOPPING = (signal.SIGINT, signal.SIGTERM)
Handler = Callable[[int, FrameType | None], Any]


class StoppedBySignal(SystemExit):
    """A signal ended what ran; the process's exit code is 128 + the signal's number, as shells count."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number = number


def handle_signals(handler: Handler) -> dict[int, Any]:
    """Let SIGINT and SIGTERM call `handler`, unless whoever started this process had them ignored (nohup).

    Returns:
        the handlers there were before, for `restore_signals`; outside the main thread, where none can be set, none.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}
    before: dict[int, Any] = {number: signal.getsignal(number) for number in STOPPING}
    before = {number: found for number, found in before.items() if found is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, handler)
    return before


def restore_signals(before: dict[int, Any]) -> None:
    """Put back what `handle_signals` returned, and empty it."""
    while before:
        number, handler = before.popitem()
        signal.signal(number, handler)


def exit_at_once(number: int, frame: FrameType | None) -> None:
    """End the process here: an exception inside an import may be swallowed, or come out as another one."""
    say(number, "stopped.")
    os._exit(128 + number)


def raise_stopped(number: int, frame: FrameType | None) -> None:
    """End what runs by an exception, so that files, loggers and child processes are closed."""
    if os.getpid() == _process:  # a forked worker goes quietly
        say(number, "stopped; what was finished before stays.")
    raise StoppedBySignal(number)


def say(number: int, what: str) -> None:
    """Write a line about a signal to standard error, past Python's buffers, which a handler may have interrupted."""
    os.write(2, f"\n{signal.Signals(number).name}: {what}\n".encode())


_process = os.getpid()
