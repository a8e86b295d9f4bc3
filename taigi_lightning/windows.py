"""What Windows does otherwise: encodings of consoles and files, files in use, names of paths, a GPU's memory.

Both packages have this file; a test holds the two alike.
"""

from __future__ import annotations

import codecs
import io
import platform
import re
import sys
import time
import unicodedata
from collections.abc import Callable
from pathlib import Path, PureWindowsPath
from typing import Any, TypeVar

T = TypeVar("T")

LONGEST_PATH = 259  # characters: MAX_PATH of Windows, less the NUL at its end
HEADROOM = 100  # characters of a path that a run adds below the folder it is given
_NOT_IN_NAMES = frozenset('<>:"|?*')
_DEVICES = {"CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"} | {
    f"{p}{n}" for p in ("COM", "LPT") for n in "0123456789¹²³"
}
_PAUSES = (0.05, 0.1, 0.2, 0.4, 0.8, 1.5)  # seconds; a virus scanner lets go of a file within a few
_PLAIN = {"—": "-", "–": "-", "−": "-", "‘": "'", "’": "'", "“": '"', "”": '"', "…": "...", "→": "->", "×": "x",
          "·": ".", "•": "*", "±": "+-", "≥": ">=", "≤": "<=", "≠": "!=", "█": "#", "✓": "ok", "\xa0": " "}  # fmt: skip


# ---- encodings ----------------------------------------------------------------------------------------


def print_what_streams_lack() -> None:
    r"""Let standard output and standard error take any text, whatever their encoding.

    On Windows a pipe or a file gets the system's code page: cp950 for Traditional Chinese, which lacks `ó`, or cp1252,
    which lacks every Han character. What a stream lacks is written in ASCII, punctuation as its plain form, all else
    as an escape (`\u963f`); Python would end with a traceback.
    """
    codecs.register_error("plain_or_escaped", _plain_or_escaped)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # not where there is no console at all
            stream.reconfigure(errors="plain_or_escaped")


def _plain_or_escaped(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(
        _PLAIN.get(c) or c.encode("ascii", "backslashreplace").decode() for c in lacking
    ), error.end


def read_configs_as_utf8() -> None:
    """Let jsonargparse read configs in UTF-8, or UTF-16 with a byte order mark, on every system.

    It opens them in the system's encoding, in which Windows would take 文章 for other characters without a word.
    PowerShell 5 writes UTF-16 for `--print_config > my.yaml`.
    """
    from jsonargparse._paths import Path as ConfigPath

    read = ConfigPath.read_text
    if hasattr(read, "knows_utf8"):
        return

    def read_text(self: Any) -> str:
        local = not (self.is_url or self.is_fsspec or self._std_io)
        return config_text(Path(self.absolute)) if local else read(self)

    read_text.knows_utf8 = True  # type: ignore[attr-defined]
    ConfigPath.read_text = read_text  # type: ignore[method-assign]


def config_text(path: Path) -> str:
    """The text of a file in UTF-8, with or without a byte order mark, or in UTF-16 with one.

    Raises:
        UnicodeDecodeError: it is in another encoding.
    """
    data = path.read_bytes()
    utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    # In UTF-16 every other byte of ASCII is 0; a stray 0 is for YAML to refuse.
    if not utf16 and len(data) % 2 == 0 and 4 * data.count(0) > len(data):
        raise UnicodeDecodeError("utf-8", data, data.index(0), data.index(0) + 1, "UTF-16 without its mark")
    return data.decode("utf-16" if utf16 else "utf-8-sig").replace("\r\n", "\n")


def other_encoding(data: bytes) -> str:
    """What a text that is not UTF-8 seems to be, as the end of a message; empty where nothing can be said.

    >>> other_encoding("文章,問題".encode("cp950"))
    ' It reads as Big5 (cp950), in which Excel in Taiwan saves plain CSV: 文章,問題. There choose “CSV UTF-8”.'
    """
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return " It is UTF-16, which PowerShell 5 and Excel's “Unicode Text” write."
    text = data.decode("cp950", "replace")
    foreign = [c for c in text if c > "\x7f"]
    if sum("\u3000" <= c <= "\u9fff" or "\uff00" <= c <= "\uffef" for c in foreign) < 0.9 * len(foreign):
        return ""
    start = "".join(c for c in text[:12] if c.isprintable())
    return f" It reads as Big5 (cp950), in which Excel in Taiwan saves plain CSV: {start}. There choose “CSV UTF-8”."


# ---- files in use -------------------------------------------------------------------------------------


def patiently(action: Callable[[], T]) -> T:
    """Do what renames or removes a file; on Windows again for three seconds, while a scanner holds the file open."""
    if sys.platform == "win32":
        for pause in _PAUSES:
            try:
                return action()
            except PermissionError:
                time.sleep(pause)
    return action()


def in_use(path: Path) -> bool:
    """Whether another program keeps a file from being replaced, as Excel does with a table that it shows.

    Only Windows lets it: renaming the file to its own name fails there, and does nothing elsewhere.
    """
    if not path.is_file():
        return False
    try:
        patiently(lambda: path.rename(path))
    except PermissionError:
        return sys.platform == "win32"
    return False


# Numbers of Windows' errors, and what each means here.
_SCANNER = (
    "another program has it open, such as Excel, a virus scanner or OneDrive. Close it there and try again"
)
_DRIVE = "the drive or network folder is not there. Connect it, or give a folder on this machine's own disk"
_ERRORS: dict[tuple[int, ...], str] = {
    (32, 33, 1224): _SCANNER,
    (
        5,
    ): "it is read-only, open in another program, or in a folder that Windows protects (Controlled folder access). "
    "Give a folder in which you may write, or close the other program",
    (
        206,
    ): "the path is longer than the 259 characters that Windows takes. Give a shorter folder, or switch on long "
    "paths (LongPathsEnabled)",
    (39, 112, 1295): "the disk is full. Free some of it, or give a folder on another drive",
    (
        1455,
    ): "memory and the paging file are full. Close other programs, or let Windows manage the paging file's size "
    "(System, Advanced, Performance)",
    (
        126,
        127,
        193,
        1114,
    ): "a library cannot be loaded. Install the Microsoft Visual C++ Redistributable (x64), then "
    "this package again",
    (15, 21, 53, 55, 59, 64, 67, 121, 1203, 1231, 1232): _DRIVE,
    (123,): 'it is no name for a file on Windows. Leave out the characters < > : " | ? *',
    tuple(
        range(358, 405)
    ): "OneDrive has not fetched it. Choose “Always keep on this device” for the folder, or give "
    "one outside OneDrive",
}


def explain_windows(error: BaseException) -> str | None:
    """What a refusal of Windows means and what to do, None where it is none or another one.

    Libraries in Rust tell only the number, as in `(os error 32)`.
    """
    code = getattr(error, "winerror", None)
    if code is None and sys.platform == "win32":
        found = re.search(r"\[WinError (\d+)\]|\(os error (\d+)\)", str(error))
        code = int(found[1] or found[2]) if found else None
    if code in (2, 3) and len(str(getattr(error, "filename", ""))) > LONGEST_PATH:
        code = 206  # a path that is too long is also one that is not found
    return next((meaning for codes, meaning in _ERRORS.items() if code in codes), None)


# ---- paths --------------------------------------------------------------------------------------------


def path_problem(path: Path, more: int = HEADROOM) -> str | None:
    """Why Windows could not make a file or folder, or would make another one; None on other systems.

    Args:
        path: what is to be made.
        more: characters that are added below it.
    """
    if sys.platform != "win32":
        return None
    if not Path(path.absolute().anchor).is_dir():
        return f"{path} is on {path.absolute().anchor}, where no drive or network folder is"
    absolute = str(path.absolute())
    if len(absolute) + more > LONGEST_PATH and not _takes_long_paths():
        return (
            f"{absolute} has {len(absolute)} characters, and what is written there adds up to {more}; Windows takes "
            f"{LONGEST_PATH} in all. Give a shorter folder, or switch on long paths (LongPathsEnabled)"
        )
    return name_problem(str(path))


def portable(path: str | Path) -> str:
    """A path as it is written into files that may move to another system: with slashes, which Windows reads too."""
    return str(path).replace("\\", "/") if sys.platform == "win32" else str(path)


def name_problem(path: str) -> str | None:
    r"""Why a path is no name for a file on Windows, where `a:b` is a hidden stream of `a`, and NUL swallows all.

    >>> name_problem(r"C:\Users\王小明\models/cpt"), name_problem("..\\models")
    (None, None)
    >>> name_problem("runs/12:30")
    "'12:30' holds ':', which no name on Windows may"
    >>> name_problem("models/aux.txt")
    "'aux.txt' is a device on Windows"
    >>> name_problem("models/v2./cpt")
    "'v2.' ends with '.', which Windows would leave out"
    """
    found = PureWindowsPath(path)
    for name in found.parts[1:] if found.anchor else found.parts:
        wrong = sorted(c for c in set(name) if c in _NOT_IN_NAMES or unicodedata.category(c) == "Cc")
        if wrong:
            return f"{name!r} holds {wrong[0]!r}, which no name on Windows may"
        if name not in (".", "..") and name[-1] in ". ":
            return f"{name!r} ends with {name[-1]!r}, which Windows would leave out"
        if name.partition(".")[0].rstrip().upper() in _DEVICES:
            return f"{name!r} is a device on Windows"
    return None


def _takes_long_paths() -> bool:
    """Whether whoever set this Windows up switched on paths of any length."""
    if sys.platform == "win32":
        import winreg

        key = r"SYSTEM\CurrentControlSet\Control\FileSystem"
        try:
            with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, key) as found:
                return bool(winreg.QueryValueEx(found, "LongPathsEnabled")[0])
        except OSError:
            return False
    return True


# ---- GPUs ---------------------------------------------------------------------------------------------


def lends_host_memory() -> bool:
    """Whether a GPU's driver gives a program host memory once the card's own is full: on Windows, and in WSL on it."""
    return sys.platform == "win32" or "microsoft" in platform.release().lower()
