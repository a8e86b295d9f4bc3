"""A Python that is started anew for each command: what stands for `WarmPython` where no process forks."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from tests.warm_python import HEAVY, ROOT, Ended

# Be `python -m`, and tell at the end which heavy packages were imported.
START = f"""
import atexit, os, runpy, sys
package, sys.argv = sys.argv[1], sys.argv[1:]
tell = os.environ.pop("TELL_HEAVY")
def heavy():
    with open(tell, "w", encoding="utf-8") as file:
        file.write(" ".join(name for name in {HEAVY!r} if name in sys.modules))
atexit.register(heavy)
runpy.run_module(package, run_name="__main__", alter_sys=True)
"""


class PlainPython:
    """Used as `WarmPython` is; a command takes the seconds that its imports take."""

    executable = sys.executable

    def __enter__(self) -> PlainPython:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def run(self, package: str, arguments: Sequence[str], folder: Path, encoding: str = "utf-8") -> Ended:
        """Run `python -m package arguments` in a folder, without input, on a console of this encoding."""
        with tempfile.TemporaryDirectory() as aside:
            tell = Path(aside, "heavy")
            done = subprocess.run(
                [self.executable, "-c", START, package, *arguments],
                cwd=folder,
                env={
                    **os.environ,
                    "PYTHONPATH": str(ROOT),
                    "HF_HUB_OFFLINE": "1",
                    "OMP_NUM_THREADS": "1",
                    "PYTHONIOENCODING": encoding,
                    "TELL_HEAVY": str(tell),
                },
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
            )
            out, err = (
                stream.decode(encoding, "replace").replace("\r\n", "\n")
                for stream in (done.stdout, done.stderr)
            )
            return Ended(done.returncode, out, err, tell.read_text(encoding="utf-8").split())
