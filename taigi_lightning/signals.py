"""What SIGINT (Ctrl-C), SIGTERM and, on Windows, SIGBREAK do to a command: one line, no traceback, 128 + the signal."""

from __future__ import annotations

import _thread
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

# SIGBREAK is Windows' own: Ctrl-Break, and what a closed window, logging off or shutting down is turned into here.
STOPPING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGBREAK") if hasattr(signal, name))
CLOSING = (2, 5, 6)  # CTRL_CLOSE_EVENT, CTRL_LOGOFF_EVENT, CTRL_SHUTDOWN_EVENT of wincon.h
Handler = Callable[[int, FrameType | None], Any]


class StoppedBySignal(SystemExit):
    """A signal ended what ran; the process's exit code is 128 + the signal's number, as shells count."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number = number


def handle_signals(handler: Handler) -> dict[int, Any]:
    """Let the signals that stop a command call `handler`, unless whoever started this process had them ignored (nohup).

    Returns:
        the handlers there were before, for `restore_signals`; outside the main thread, where none can be set, none.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}
    before: dict[int, Any] = {number: signal.getsignal(number) for number in STOPPING}
    # None is a handler that is not Python's, which could not be put back.
    before = {number: found for number, found in before.items() if found not in (None, signal.SIG_IGN)}
    for number in before:
        signal.signal(number, handler)
    return before


def restore_signals(before: dict[int, Any]) -> None:
    """Put back what `handle_signals` returned, and empty it."""
    while before:
        number, handler = before.popitem()
        signal.signal(number, handler)


@contextmanager
def held_back() -> Iterator[None]:
    """Let signals that stop a command wait until this block is done, which must happen wholly or not at all."""
    arrived: list[int] = []
    before = handle_signals(lambda number, frame: arrived.append(number))
    try:
        yield
    finally:
        restore_signals(before)
        for number in arrived[:1]:
            signal.raise_signal(number)


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


def leave_signals_to_parent(worker: int = 0) -> None:
    """Let a process that prepares batches go on when Ctrl-C or a closing window reaches it too: its parent decides.

    Args:
        worker: its number, which a DataLoader tells its `worker_init_fn`.
    """
    for number in STOPPING:
        if number != signal.SIGTERM:  # by which a DataLoader ends its workers
            signal.signal(number, signal.SIG_IGN)
    wait_when_closed(lambda: None)


def wait_when_closed(stop: Callable[[], None] = lambda: _thread.interrupt_main(STOPPING[-1])) -> None:
    """On Windows, let a window that is closed stop a command as Ctrl-Break does, and give it the time to save.

    Windows ends a process as soon as its console handler returns, and the C runtime's, through which Python hears of
    signals, returns at once. One that waits has the system's timeout: about five seconds after a window was closed.

    Args:
        stop: called in a thread of its own when the window closes, the user logs off or the machine shuts down.
    """
    global _console_handler  # noqa: PLW0603 - Windows calls it as long as the process lives
    if sys.platform == "win32" and _console_handler is None:
        import ctypes

        def handle(event: int) -> int:
            if event not in CLOSING:
                return 0  # to the C runtime's handler
            stop()
            time.sleep(3600)  # until the main thread has ended the process, or Windows has
            return 1

        _console_handler = ctypes.WINFUNCTYPE(ctypes.c_int, ctypes.c_uint)(handle)
        ctypes.windll.kernel32.SetConsoleCtrlHandler(_console_handler, 1)


_process = os.getpid()
_console_handler: Any = None
