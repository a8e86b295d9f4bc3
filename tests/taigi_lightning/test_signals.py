"""A stopped process never ends as if all were done."""

import signal
import subprocess
import sys

import pytest

from taigi_lightning.signals import StoppedBySignal, handle_signals, raise_stopped, restore_signals
from tests.working_folder import environment


@pytest.mark.posix("signals to a process, which end it at once on Windows")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_exit_code_is_the_shells(number: signal.Signals) -> None:
    code = f"""
import os, time
from taigi_lightning.signals import handle_signals, raise_stopped
handle_signals(raise_stopped)
os.kill(os.getpid(), {int(number)})
time.sleep(10)
"""
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=False
    )
    assert run.returncode == 128 + number
    assert run.stderr == f"\n{number.name}: stopped; what was finished before stays.\n"


@pytest.mark.posix("signals to a process, which end it at once on Windows")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_python_ends_leaves_no_traceback(number: signal.Signals) -> None:
    code = f"""
import atexit, os, sys
from taigi_lightning.__main__ import process
atexit.register(os.kill, os.getpid(), {int(number)})
sys.argv[1:] = ["--version"]
sys.exit(process())
"""
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=False
    )
    assert run.returncode == 128 + number
    assert run.stderr == f"\n{number.name}: stopped.\n"


def test_what_was_ignored_stays_ignored_and_the_rest_is_given_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    ignored = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        taken = handle_signals(raise_stopped)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        with pytest.raises(StoppedBySignal):
            signal.raise_signal(signal.SIGTERM)
        restore_signals(taken)
    finally:
        signal.signal(signal.SIGINT, ignored)
    assert signal.getsignal(signal.SIGTERM) == before
