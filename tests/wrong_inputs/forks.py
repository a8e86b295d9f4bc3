"""Commands in forks of one fresh process: each is as alone as a command is, and starts at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.working_folder import environment

HEAVY = ("torch", "lightning", "transformers", "bitsandbytes", "peft", "datasets", "opencc")


@dataclass
class Ended:
    """How a command ended: its exit code, what it printed, and which heavy packages it had imported."""

    code: int
    out: str
    err: str
    heavy: list[str]


class Forks:
    """A fresh process that runs commands in forks of itself."""

    def __init__(self) -> None:
        self.process: Any = None

    def __enter__(self) -> Forks:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.wrong_inputs.forks"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**environment(), "HF_HUB_OFFLINE": "1"},
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.stdin.close()
        self.process.wait()

    def run(self, package: str, arguments: Sequence[str], folder: Path) -> Ended:
        """Run `python -m package arguments` in a folder."""
        self.process.stdin.write(json.dumps([package, list(arguments), str(folder)]) + "\n")
        self.process.stdin.flush()
        return Ended(**json.loads(self.process.stdout.readline()))


def serve() -> None:
    """Answer each line of standard input, a command, by a line about how it ended."""
    import jsonargparse  # noqa: F401 - once for all forks
    import yaml  # noqa: F401

    for line in sys.stdin:
        package, arguments, folder = json.loads(line)
        streams = [os.memfd_create(name) for name in ("out", "err", "heavy")]
        child = os.fork()
        if child == 0:
            run_here(package, arguments, folder, streams)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        out, err, heavy = (read(stream) for stream in streams)
        print(json.dumps({"code": code, "out": out, "err": err, "heavy": heavy.split()}), flush=True)


def run_here(package: str, arguments: list[str], folder: str, streams: Sequence[int]) -> None:
    """Be the command, up to its end."""
    os.chdir(folder)
    sys.path.insert(0, folder)  # as `python -m` does
    nothing = os.open(os.devnull, os.O_RDONLY)
    for target, stream in enumerate([nothing, *streams[:2]]):
        os.dup2(stream, target)
    sys.argv = [package, *arguments]
    code = 1
    try:
        code = import_module(f"{package}.__main__").main()
    except SystemExit as stop:
        code = int(stop.code or 0)
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os.write(streams[2], " ".join(name for name in HEAVY if name in sys.modules).encode())
    os._exit(code)


def read(stream: int) -> str:
    """The text in a memory file, which is closed."""
    os.lseek(stream, 0, os.SEEK_SET)
    with os.fdopen(stream, encoding="utf-8", errors="replace") as file:
        return file.read()


if __name__ == "__main__":
    serve()
