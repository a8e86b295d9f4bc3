"""`python -m corpus_tools clean | preview | sample`.

Only the standard library is imported before Ctrl-C is taken care of.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType

from corpus_tools.windows import print_what_streams_lack

INTERRUPTED = 130  # the exit code that shells give a command stopped by SIGINT
# Ctrl-C, and on Windows Ctrl-Break
STOPPING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGBREAK") if hasattr(signal, name))


def _stop(number: int, frame: FrameType | None) -> None:
    """End at once, whatever is being done: every file is written aside, and workers end when this process does."""
    os.write(
        2, b"stopped by Ctrl-C; an earlier corpus is unchanged, the same command takes this one up again.\n"
    )
    os._exit(INTERRUPTED)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; 0, or 1 for unusable data (usage errors leave with 2, Ctrl-C with 130)."""
    in_main_thread = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, _stop) for number in STOPPING} if in_main_thread else {}
    print_what_streams_lack()
    try:
        given = sys.argv[1:] if arguments is None else arguments
        if given[:1] == ["--version"]:
            from corpus_tools.steps.publish import package_version

            print(f"corpus-tools {package_version()}")
            return 0
        from corpus_tools.cli.commands import run

        return run(given)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    sys.exit(main())
