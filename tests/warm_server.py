"""The process whose forks are the commands of `warm_python.py`: heavy packages loaded, and hidden until asked for."""

from __future__ import annotations

import atexit
import functools
import gc
import importlib.util
import io
import json
import logging
import os
import runpy
import select
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, suppress
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from tests.warm_python import HEAVY, MESSAGE, ROOT

# Hidden until one of them, or what it imports, is asked for; each may need those before it.
HIDDEN = ("pandas", "jinja2", "huggingface_hub.file_download", "torch", "lightning.pytorch", "transformers", "peft",
          "bitsandbytes", "datasets", "wandb")  # fmt: skip


def serve(address: str) -> None:
    """Load, then fork for each command until standard input closes."""
    hidden = load()
    gc.collect()
    gc.freeze()  # so that a fork's collections leave these pages shared
    running: dict[int, tuple[int, socket.socket]] = {}  # the end of a process, its number, who waits for it
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(address)
        listener.listen(16)
        print("ready", flush=True)
        while True:
            callers = {caller: child for child, caller in running.values()}
            readable, _, _ = select.select([listener, sys.stdin, *running, *callers], [], [])
            for caller in callers.keys() & set(readable):
                hand_on(caller, callers[caller])
            for ended in running.keys() & set(readable):
                child, caller = running.pop(ended)
                os.close(ended)
                code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
                with caller, suppress(OSError):  # gone before its command was
                    caller.send(str(code).encode())
            if sys.stdin in readable:
                return
            if listener in readable:
                caller, _ = listener.accept()
                message, streams, _, _ = socket.recv_fds(caller, MESSAGE, 4)
                child = os.fork()
                if not child:
                    break
                for stream in streams:
                    os.close(stream)
                running[os.pidfd_open(child)] = child, caller
    for descriptor, (_, other) in running.items():
        os.close(descriptor)
        other.close()
    caller.close()
    arguments, folder, variables = json.loads(message)
    end(lambda: become(arguments, folder, variables, streams, hidden))


def hand_on(caller: socket.socket, child: int) -> None:
    """Send a command the signal that its caller got; that of a caller which is gone was SIGKILL."""
    try:
        number = caller.recv(64)
    except OSError:
        number = b""
    os.kill(child, int(number or signal.SIGKILL))


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


def load() -> list[dict[str, ModuleType]]:
    """Import everything; returns the modules that each of `HIDDEN` brought along."""
    # As `python -m taigi_lightning` does before it imports it.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    import jsonargparse  # noqa: F401 - never hidden, like all that runs as ever while outlines are given
    import pyarrow.parquet  # noqa: F401

    from taigi_lightning.cli.outlines import is_real

    rehearse()
    found = []
    for name in HIDDEN:
        before = set(sys.modules)
        importlib.import_module(name)
        new = {key: module for key, module in sys.modules.items() if key not in before}
        found.append({name: module for name, module in new.items() if not is_real(name)})
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    get_checkpoint_conversion_mapping("llama")  # compiles a thousand patterns, once in a process
    return found


def rehearse() -> None:
    """Refuse a command line, as most tests here want it; each then finds the sources' syntax trees and what parses.

    The project's own modules are imported anew by every command; only the one that reads sources stays.
    """
    from taigi_lightning.cli import outline_source
    from taigi_lightning.cli.preflight import preflight

    outline_source.bindings = functools.cache(outline_source.bindings)
    before = sys.argv[1:]
    arguments = ["--config", str(ROOT / "configs" / "cpt.yaml"), "--model.lora.r", "none"]
    sys.argv[1:] = ["fit", *arguments]
    with suppress(SystemExit), redirect_stderr(io.StringIO()):
        preflight("fit", arguments)
    sys.argv[1:] = before
    for name in [name for name in sys.modules if name.partition(".")[0] == "taigi_lightning"]:
        if name != outline_source.__name__:
            del sys.modules[name]


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
        """Nothing, as it has run; but a folder that was made then is another for every command."""
        module.__spec__ = self.specs[module.__name__]
        if module.__name__ == "wandb":
            media = sys.modules["wandb.sdk.data_types._private"].MEDIA_TMP
            media.__init__("wandb-media")


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
    kind, what, rest = arguments[0], "".join(arguments[1:2]), arguments[2:]
    places = [place for place in variables.get("PYTHONPATH", "").split(os.pathsep) if place]
    sys.path[:] = [folder if kind == "-m" else "", *places, *(p for p in sys.path[1:] if p not in places)]
    sys.argv = [kind, *rest]
    # What starts further processes may start them here; torchrun reads this variable too.
    sys.executable = variables.get("PYTHON_EXEC", sys.executable)
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
    elif kind.endswith(".py"):
        sys.path[0] = str(Path(kind).parent)
        sys.argv = arguments
        runpy.run_path(kind, run_name="__main__")
    else:
        sys.exit(f"{kind}: only -m MODULE, -c CODE and FILE.py run here")


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
