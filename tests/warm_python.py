"""A Python that has the heavy packages loaded already: each command is a fork of it, which must ask for them first.

PyTorch, Lightning and Transformers take ten seconds of a core to import, and dozens of tests run a command. To a
command that is run here nothing heavy is loaded: its modules are hidden from `sys.modules` until an import asks for
them, so that it parses, refuses and starts as it does in a fresh interpreter.

`WarmPython().executable` is a file that is used like `python`: with `-m MODULE` or `-c CODE`, its folder, variables
and streams are those of the command. Signals end the caller alone: tests of signals start Python itself.
"""

from __future__ import annotations

import array
import atexit
import gc
import importlib.util
import json
import logging
import os
import runpy
import select
import socket
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import MappingProxyType, ModuleType, TracebackType
from typing import Any, NoReturn

ROOT = Path(__file__).parent.parent
# Hidden until one of them, or what it imports, is asked for; each may need those before it.
HIDDEN = ("pandas", "jinja2", "huggingface_hub.file_download", "torch", "lightning.pytorch", "transformers", "peft",
          "bitsandbytes")  # fmt: skip
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
            [sys.executable, "-m", "tests.warm_python", self.address],
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
    """Be the command that `sys.argv` holds: run there, end as it does."""
    code = ask(address, sys.argv[1:], str(Path.cwd()), [0, 1, 2])
    if code < 0:
        os.kill(os.getpid(), -code)
    sys.exit(code)


def ask(
    address: str,
    arguments: Sequence[str],
    folder: str,
    streams: Sequence[int],
    variables: Mapping[str, str] = MappingProxyType({}),
) -> int:
    """Run a command there and wait for its end; returns its exit code, -N where signal N ended it."""
    message = json.dumps([list(arguments), folder, {**os.environ, **variables}]).encode()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MESSAGE)
        connection.connect(address)
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", streams))
        connection.sendmsg([message], [rights])
        return int(connection.recv(64))


# ---- the process that waits for commands ------------------------------------------------------------------------


def serve(address: str) -> None:
    """Load, then fork for each command until standard input closes."""
    hidden = load()
    gc.collect()
    gc.freeze()  # so that a fork's collections leave these pages shared
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(address)
        listener.listen(16)
        print("ready", flush=True)
        while True:
            readable, _, _ = select.select([listener, sys.stdin], [], [])
            if listener not in readable:
                return
            connection, _ = listener.accept()
            if os.fork() == 0:
                break
            connection.close()
            while _some_ended():
                pass
    message, streams, _, _ = socket.recv_fds(connection, MESSAGE, 4)
    child = os.fork()
    if child:
        connection.send(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])).encode())
        os._exit(0)
    connection.close()
    arguments, folder, variables = json.loads(message)
    end(lambda: become(arguments, folder, variables, streams, hidden))


def end(command: Callable[[], None]) -> NoReturn:
    """Run a command and end as Python does, but leave modules to the kernel: some complain when taken apart."""
    code = 0
    try:
        command()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
    except BaseException:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # closed by the command, or by who reads it
            stream.flush()
    os._exit(code)


def _some_ended() -> bool:
    try:
        return os.waitpid(-1, os.WNOHANG)[0] > 0
    except ChildProcessError:
        return False


def load() -> list[dict[str, ModuleType]]:
    """Import everything; returns the modules that each of `HIDDEN` brought along."""
    # As `python -m taigi_lightning` does before it imports it.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    import jsonargparse  # noqa: F401 - never hidden, like all that runs as ever while outlines are given
    import pyarrow.parquet  # noqa: F401

    from taigi_lightning.cli.outlines import is_real

    for name in [name for name in sys.modules if name.partition(".")[0] == "taigi_lightning"]:
        del sys.modules[name]
    found = []
    for name in HIDDEN:
        before = set(sys.modules)
        importlib.import_module(name)
        new = {key: module for key, module in sys.modules.items() if key not in before}
        found.append({name: module for name, module in new.items() if not is_real(name)})
    return found


class Shelf:
    """Finds the modules that are hidden; the first one that is asked for brings back those of its group."""

    def __init__(self, groups: list[dict[str, ModuleType]]) -> None:
        self.groups = groups
        self.asked_for: set[str] = set()  # top-level packages
        self.specs = {name: module.__spec__ for group in groups for name, module in group.items()}
        for name in self.specs:
            del sys.modules[name]

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """The specification of a module that lies here."""
        while any(name in group for group in self.groups):
            group = self.groups.pop(0)
            if name in group:
                self.asked_for.add(name.partition(".")[0])
                self.asked = group.pop(name)  # the import itself puts it into sys.modules
                sys.modules.update(group)
                return ModuleSpec(name, self)  # type: ignore[arg-type]
            sys.modules.update(group)
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """The module as it was loaded."""
        return self.asked

    def exec_module(self, module: ModuleType) -> None:
        """Nothing: it has run."""
        module.__spec__ = self.specs[module.__name__]


def tell_what_was_loaded(stream: int, shelf: Shelf) -> None:
    """Write the heavy packages that a command has asked for; with them come others that it has not."""
    hidden = {name.partition(".")[0] for name in shelf.specs}
    asked = (
        name for name in HEAVY if name in shelf.asked_for or (name in sys.modules and name not in hidden)
    )
    os.write(stream, " ".join(asked).encode())


def become(
    arguments: list[str],
    folder: str,
    variables: dict[str, str],
    streams: Sequence[int],
    hidden: list[dict[str, ModuleType]],
) -> None:
    """Be the command."""
    for number, stream in enumerate(streams[:3]):
        os.dup2(stream, number)
    encoding = variables.get("PYTHONIOENCODING") or "utf-8"
    # Anew, as those of the process that forked know whether its own could be sought in.
    sys.stdin = sys.__stdin__ = open(0, encoding=encoding, closefd=False)  # type: ignore[misc]  # noqa: SIM115
    sys.stdout = sys.__stdout__ = open(1, "w", encoding=encoding, closefd=False)  # type: ignore[misc]  # noqa: SIM115
    sys.stderr = sys.__stderr__ = open(  # type: ignore[misc]  # noqa: SIM115
        2,
        "w",
        encoding=encoding,
        errors="backslashreplace",
        buffering=1,
        closefd=False,
    )
    shelf = Shelf(hidden)
    if len(streams) > 3:
        atexit.register(tell_what_was_loaded, streams[3], shelf)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)
    (kind, what), rest = arguments[:2], arguments[2:]
    places = [place for place in variables.get("PYTHONPATH", "").split(os.pathsep) if place]
    sys.path[:] = [folder if kind == "-m" else "", *places, *(p for p in sys.path[1:] if p not in places)]
    sys.argv = [kind, *rest]
    warnings.resetwarnings()  # and as Python sets them when it starts
    for category in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
        warnings.simplefilter("ignore", category)
    for asked in filter(None, variables.get("PYTHONWARNINGS", "").split(",")):
        warnings._setoption(asked)  # type: ignore[attr-defined]
    sys.meta_path.insert(0, shelf)  # type: ignore[arg-type]
    if "WINDOWS_LIKE_ROOT" in variables:
        act_windows()
    if kind == "-m":
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    elif kind == "-c":
        main = sys.modules["__main__"] = ModuleType("__main__")
        exec(compile(what, "<string>", "exec"), main.__dict__)
    else:
        sys.exit(f"{kind}: only -m MODULE and -c CODE run here")


def act_windows() -> None:
    """Be a Python as on Windows: what starts a new one imports the same file by itself."""
    os.setsid()  # what is in use is looked for among the processes of this command
    path = ROOT / "tests" / "windows_like" / "sitecustomize.py"
    spec = importlib.util.spec_from_file_location("sitecustomize", path)
    assert spec is not None and spec.loader is not None
    sys.modules["sitecustomize"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


if __name__ == "__main__":
    serve(sys.argv[1])
    os._exit(0)  # as its forks end
