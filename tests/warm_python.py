"""A Python that has the heavy packages loaded already: each command is a fork of it, which must ask for them first.

PyTorch, Lightning and Transformers take ten seconds of a core to import, and dozens of tests run a command. To a
command that is run here nothing heavy is loaded: its modules are hidden from `sys.modules` until an import asks for
them, so that it parses, refuses and starts as it does in a fresh interpreter.

`WarmPython().executable` is a file that is used like `python`: with `-m MODULE`, `-c CODE` or `FILE.py`, its folder,
variables and streams are those of the command. A signal to it reaches the command, and its end is the command's.
"""

from __future__ import annotations

import array
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, TracebackType

ROOT = Path(__file__).parent.parent
HEAVY = ("torch", "lightning", "transformers", "bitsandbytes", "peft", "datasets", "opencc")
MESSAGE = 2**20  # bytes of a command with its variables, at most


@dataclass
class Ended:
    """How a command ended: its exit code, what it printed, and which heavy packages it had asked for."""

    code: int
    out: str
    err: str
    heavy: list[str]


class WarmPython:
    """The process whose forks are the commands; it ends with the one that started it, at the latest."""

    def __init__(self) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="warm-python-")
        self.address = f"{self.folder.name}/socket"
        self.executable = f"{self.folder.name}/python"
        start = f"#!{sys.executable} -IS\nimport sys\nsys.path.insert(0, {str(ROOT)!r})\n"
        client = f"from tests.warm_python import client\nclient({self.address!r})\n"
        Path(self.executable).write_text(start + client)
        Path(self.executable).chmod(0o755)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.warm_server", self.address],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "HF_HUB_OFFLINE": "1",
                "OMP_NUM_THREADS": "1",
                "PYTHONWARNDEFAULTENCODING": "1",
            },
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n"

    def __enter__(self) -> WarmPython:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.communicate()  # closes its input
        self.folder.cleanup()

    def run(self, package: str, arguments: Sequence[str], folder: Path, encoding: str = "utf-8") -> Ended:
        """Run `python -m package arguments` in a folder, without input, on a console of this encoding."""
        streams = [os.memfd_create(name) for name in ("out", "err", "heavy")]
        nothing = os.open(os.devnull, os.O_RDONLY)
        words = ["-m", package, *arguments]
        code = ask(self.address, words, str(folder), [nothing, *streams], {"PYTHONIOENCODING": encoding})
        os.close(nothing)
        out, err, heavy = (read(stream, encoding) for stream in streams)
        return Ended(code, out, err, heavy.split())


def read(stream: int, encoding: str) -> str:
    """The text in a memory file, which is closed; U+FFFD where it is not in this encoding."""
    os.lseek(stream, 0, os.SEEK_SET)
    with os.fdopen(stream, encoding=encoding, errors="replace") as file:
        return file.read()


def client(address: str) -> None:
    """Be the command that `sys.argv` holds: run there, hand on signals, end as it does."""
    arguments = (
        sys.argv[2:] if sys.argv[1] == "-u" else sys.argv[1:]
    )  # torchrun's ranks; who reads waits for the end
    code = ask(address, arguments, str(Path.cwd()), [0, 1, 2], hand_on=(signal.SIGINT, signal.SIGTERM))
    if code < 0:
        if -code in (signal.SIGINT, signal.SIGTERM):
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)


def ask(
    address: str,
    arguments: Sequence[str],
    folder: str,
    streams: Sequence[int],
    variables: Mapping[str, str] = MappingProxyType({}),
    hand_on: Sequence[int] = (),
) -> int:
    """Run a command there, hand on signals, and wait for its end.

    Returns:
        Its exit code, -N where signal N ended it.
    """
    message = json.dumps([list(arguments), folder, {**os.environ, **variables}]).encode()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MESSAGE)
        connection.connect(address)
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", streams))
        connection.sendmsg([message], [rights])
        for number in hand_on:
            signal.signal(number, lambda received, _: connection.send(str(received).encode()))
        return int(connection.recv(64))
