"""Python as it is on Windows, as far as Linux can act it; the interpreter imports this where it is first on PYTHONPATH.

For this project's packages alone, since libraries know which system they really run on: what exists only on POSIX is
absent, `sys.platform` is win32, and `winreg` and a small part of `ctypes.windll` are there; where Python is asked for
warnings of encodings, they must name one. For everything in the process: nothing forks, text files are opened in cp950
and get CRLF where the caller names neither encoding nor line end, no links are made. Below WINDOWS_LIKE_ROOT what
Windows refuses is refused, and noted in WINDOWS_LIKE_LOG, since an error may be caught: illegal names, paths of 260
characters, renaming or deleting what any process holds open or mapped, and renaming onto a folder. A file
WINDOWS_LIKE_CLOSE stands for somebody who closes the window.
"""

from __future__ import annotations

import builtins
import ctypes
import errno
import io
import mmap
import multiprocessing
import multiprocessing.context
import os
import shutil
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

OURS = ("taigi_lightning", "corpus_tools")
ROOT = os.environ.get("WINDOWS_LIKE_ROOT", "/nowhere")
LOG, CLOSE = os.environ.get("WINDOWS_LIKE_LOG"), os.environ.get("WINDOWS_LIKE_CLOSE")
NO_MODULE = {"fcntl", "grp", "posix", "pty", "pwd", "readline", "resource", "syslog", "termios", "tty"}
NOT_IN: dict[str, set[str]] = {
    "os": {
        "fork", "forkpty", "getegid", "geteuid", "getgid", "getloadavg", "getpgid", "getpgrp", "getuid", "killpg",
        "mkfifo", "nice", "posix_fadvise", "posix_fallocate", "pread", "preadv", "pwrite", "sched_getaffinity",
        "sched_setaffinity", "sendfile", "setpgid", "setsid", "statvfs", "sync", "sysconf", "uname", "wait", "wait4",
        "WNOHANG", "O_DIRECTORY", "O_NONBLOCK", "chown", "fchmod", "fchown", "memfd_create", "fdatasync",
    },
    "signal": {
        "SIGALRM", "SIGCHLD", "SIGCONT", "SIGHUP", "SIGIO", "SIGKILL", "SIGPIPE", "SIGQUIT", "SIGSTOP", "SIGTSTP",
        "SIGUSR1", "SIGUSR2", "SIGWINCH", "alarm", "pause", "pthread_kill", "pthread_sigmask", "setitimer", "sigwait",
    },
    "mmap": {"MAP_ANON", "MAP_ANONYMOUS", "MAP_POPULATE", "MAP_PRIVATE", "MAP_SHARED", "PROT_READ", "PROT_WRITE"},
}  # fmt: skip
DEVICES = {"con", "prn", "aux", "nul", *(f"{p}{n}" for p in ("com", "lpt") for n in range(1, 10))}


class Mask(ModuleType):
    """A module of the standard library with other contents for whoever imports this one."""

    def __init__(self, real: ModuleType, **others: Any) -> None:
        super().__init__(real.__name__)
        self.__dict__.update(_real=real, **others)

    def __getattr__(self, name: str) -> Any:
        if name in NOT_IN.get(self.__name__, ()):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r} on Windows")
        return getattr(self.__dict__["_real"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.__dict__["_real"], name, value)


handlers: list[Callable[[int], int]] = []


# ---- what our packages import -------------------------------------------------------------------------


def no_such_key(*_: Any) -> Any:
    """Paths have 259 characters on a Windows that nobody has set up otherwise."""
    raise FileNotFoundError(errno.ENOENT, "The system cannot find the file specified")


def set_console_handler(handler: Callable[[int], int], add: int) -> int:
    """Remember what is called when the window closes."""
    handlers[:] = [handler] if add else []
    return 1


def wait_for_close() -> None:
    """End the process when the window has closed and its handler returns, at the latest after the system's timeout.

    That is five seconds, in which a crowded machine may not get through a step; here it is longer.
    """
    while not Path(str(CLOSE)).exists():
        time.sleep(0.1)
    for handler in handlers:
        waiting = threading.Thread(target=handler, args=(2,), daemon=True)
        waiting.start()
        waiting.join(60)
    os._exit(0x3A)  # STATUS_CONTROL_C_EXIT


def memory_status(status: Any) -> int:
    """Fill in physical memory and what may be committed of a MEMORYSTATUSEX whose length is given, as the real one
    demands."""
    fields = ctypes.cast(status, ctypes.POINTER(ctypes.c_uint64))
    fields[1], fields[2], fields[3], fields[4] = 16 << 30, 4 << 30, 24 << 30, 9 << 30
    return int(fields[0] == 64)


KERNEL = Mask(
    ModuleType("kernel32"), SetConsoleCtrlHandler=set_console_handler, GlobalMemoryStatusEx=memory_status
)
MASKS: dict[str, ModuleType] = {
    "os": Mask(os, name="nt"),
    "sys": Mask(sys, platform="win32"),
    "signal": Mask(signal, SIGBREAK=getattr(signal, "SIGUSR2", None)),
    "mmap": Mask(mmap),
    "ctypes": Mask(ctypes, windll=Mask(ModuleType("windll"), kernel32=KERNEL), WINFUNCTYPE=ctypes.CFUNCTYPE),
    "winreg": Mask(ModuleType("winreg"), HKEY_LOCAL_MACHINE=0, OpenKey=no_such_key),
}
real_import = builtins.__import__


def importing(name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> Any:
    """`import` for our packages as Windows has it, for all others as it is."""
    importer = str((globals or {}).get("__package__") or (globals or {}).get("__name__") or "")
    if level == 0 and importer.partition(".")[0] in OURS:
        top = name.partition(".")[0]
        if top in NO_MODULE:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        if name in MASKS or (top in MASKS and not fromlist):
            return MASKS[top]
    return real_import(name, globals, locals, fromlist, level)


# ---- files --------------------------------------------------------------------------------------------


def below_root(path: Any) -> str | None:
    """The absolute path, if it lies where Windows' rules count."""
    if isinstance(path, int):
        return None
    absolute = os.path.abspath(os.fsdecode(path))
    return absolute if absolute.startswith(ROOT + "/") else None


def refuse(kind: type[OSError | ValueError], code: int, reason: str, path: str) -> None:
    """Raise what Windows raises, and note it."""
    if LOG:
        fd = real_descriptor(LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(fd, f"{reason}: {path} ({' '.join(sys.argv[:2])})\n".encode("utf-8", "surrogateescape"))
        os.close(fd)
    raise kind(code, reason, path)


def check_name(path: Any) -> None:
    """Refuse a name that no file may have, and a path that is too long."""
    absolute = below_root(path)
    if absolute is None:
        return
    if len(absolute) >= 260:
        refuse(FileNotFoundError, errno.ENOENT, "The system cannot find the path specified", absolute)
    for part in absolute.removeprefix(ROOT).split("/"):
        if (
            set(part) & set('<>:"|?*\\')
            or part[-1:] in (".", " ")
            or part.partition(".")[0].lower() in DEVICES
        ):
            refuse(
                OSError,
                errno.EINVAL,
                "The filename, directory name, or volume label syntax is incorrect",
                absolute,
            )


def held_paths(open_too: bool = True) -> Iterator[str]:
    """Every file that a process of this group holds mapped, or open."""
    group = os.getpgrp()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.getpgid(int(pid)) != group:
                continue
            for fd in os.listdir(f"/proc/{pid}/fd") if open_too else ():
                yield os.readlink(f"/proc/{pid}/fd/{fd}")
            with real_open(f"/proc/{pid}/maps", encoding="utf-8", errors="surrogateescape") as maps:
                yield from (line.split(maxsplit=5)[5].rstrip("\n") for line in maps if ROOT in line)
        except OSError:
            continue


def check_free(path: Any) -> None:
    """Refuse to move or delete what is in use; the files of locks have their own code on Windows."""
    absolute = below_root(path)
    if absolute is None or absolute.endswith(".lock") or os.path.islink(absolute):
        return
    real = os.path.realpath(absolute)
    if any(held == real or held.startswith(real + "/") for held in held_paths()):
        reason = "The process cannot access the file because it is being used by another process"
        refuse(PermissionError, errno.EACCES, reason, absolute)


def check_unmapped(path: Any) -> None:
    """Refuse to write anew what is mapped; other open handles do not hinder that."""
    absolute = below_root(path)
    if absolute and os.path.exists(absolute) and os.path.realpath(absolute) in held_paths(open_too=False):
        reason = "The requested operation cannot be performed on a file with a user-mapped section open"
        refuse(OSError, errno.EINVAL, reason, absolute)


def moving(real: Callable[..., None], replaces: bool) -> Callable[..., None]:
    """`os.rename` and `os.replace`."""

    def move(source: Any, target: Any, **places: Any) -> None:
        check_name(target)
        check_free(source)
        there = below_root(target)
        if there and os.path.lexists(there) and there != below_root(source):
            if os.path.isdir(there):
                refuse(PermissionError, errno.EACCES, "Access is denied", there)
            if not replaces:
                refuse(
                    FileExistsError, errno.EEXIST, "Cannot create a file when that file already exists", there
                )
            check_free(there)
        real(source, target, **places)

    return move


def removing(real: Callable[..., None]) -> Callable[..., None]:
    """`os.remove`, `os.unlink` and `os.rmdir`."""

    def remove(path: Any, **places: Any) -> None:
        if not places:
            check_free(path)
        real(path, **places)

    return remove


def no_links(source: Any, target: Any, *_: Any, **__: Any) -> None:
    """A user without the privilege cannot make links; libraries that try have another way."""
    raise OSError(errno.EPERM, "A required privilege is not held by the client", os.fsdecode(target))


real_open, real_mkdir, real_descriptor = io.open, os.mkdir, os.open


def opening(
    file: Any, mode: str = "r", buffering: int = -1, encoding: str | None = None, errors: str | None = None,
    newline: str | None = None, closefd: bool = True, opener: Any = None,
) -> Any:  # fmt: skip
    """`open` with the defaults of a Windows for Traditional Chinese."""
    if not isinstance(file, int):
        check_name(file)
        if "w" in mode:
            check_unmapped(file)
        if "b" not in mode:
            if encoding is None and str(sys._getframe(1).f_globals.get("__name__")).partition(".")[0] in OURS:
                refuse(ValueError, errno.EINVAL, "opened without an encoding", str(file))
            encoding = "cp950" if encoding in (None, "locale") else encoding
            if newline is None and mode.strip("t") in ("w", "a", "x"):
                newline = "\r\n"
    return real_open(file, mode, buffering, encoding, errors, newline, closefd, opener)


def opening_descriptor(path: Any, flags: int, *mode: Any, **places: Any) -> int:
    """`os.open`."""
    if flags & os.O_CREAT:
        check_name(path)
    return real_descriptor(path, flags, *mode, **places)


def making(path: Any, *mode: Any, **places: Any) -> None:
    """`os.mkdir`."""
    check_name(path)
    real_mkdir(path, *mode, **places)


def act() -> None:
    """Make this process such a one."""
    builtins.__import__ = importing
    warnings.filterwarnings("error", category=EncodingWarning, module=rf"({'|'.join(OURS)})\b")
    builtins.open = io.open = opening  # type: ignore[assignment]
    os.mkdir, os.open = making, opening_descriptor
    os.rename, os.replace = moving(os.rename, False), moving(os.replace, True)
    os.remove, os.unlink, os.rmdir = removing(os.remove), removing(os.unlink), removing(os.rmdir)
    os.symlink = os.link = no_links  # type: ignore[assignment]
    shutil._use_fd_functions = False  # type: ignore[attr-defined] - by names, as on Windows
    for method in ("fork", "forkserver"):
        multiprocessing.context._concrete_contexts.pop(method, None)  # type: ignore[attr-defined]
    if multiprocessing.get_start_method(allow_none=True) is None:
        multiprocessing.set_start_method("spawn")
    del os.fork
    if CLOSE and "resource_tracker" not in " ".join(sys.orig_argv):  # of which Windows has none
        threading.Thread(target=wait_for_close, daemon=True).start()


if __name__ == "sitecustomize":  # by the interpreter as it starts, not by what collects doctests
    act()
