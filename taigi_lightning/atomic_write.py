"""Files and folders that appear whole or not at all: written aside, then renamed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from taigi_lightning.errors import InputError
from taigi_lightning.signals import held_back
from taigi_lightning.windows import path_problem, patiently

PARTIAL = ".partial"
EARLIER = ".earlier"  # what a folder is called while another takes its place


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`; what the block writes there takes the place of `path` when it succeeds.

    The block may write a file or make a folder; a folder replaces the earlier one as a whole. If the block fails, or
    the replacing, `path` stays as it was and what was begun is removed. What a killed process left is replaced by the
    next one.

    Raises:
        InputError: on Windows, the path is too long or has a name that no file may have there.
    """
    if problem := path_problem(path, len(PARTIAL)):
        raise InputError(f"{problem}.")
    aside = path.with_name(path.name + PARTIAL)
    _remove(aside)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield aside
        if path.is_dir():
            _swap(aside, path)
        else:
            patiently(lambda: aside.replace(path))
    finally:
        _remove(aside)


def _swap(aside: Path, path: Path) -> None:
    """Put what is written aside in the place of a folder, which steps aside first: none is renamed onto another."""
    earlier = path.with_name(path.name + EARLIER)
    with held_back():
        _remove(earlier)
        patiently(lambda: path.rename(earlier))
        try:
            patiently(lambda: aside.replace(path))
        except OSError:
            earlier.rename(path)
            raise
        with suppress(OSError):  # a file of it is in use, on Windows; the next one removes it
            _remove(earlier)


def check_place(path: Path, names: Iterable[str] = ("",)) -> None:
    """Refuse a file or folder at a command's start rather than when it is written.

    Args:
        path: the file or folder that the command will write.
        names: the longest paths that it will make below it.

    Raises:
        InputError: on Windows, one of them would be too long or has a name that no file may have there, or the drive is
            not there.
    """
    longest = max(map(len, names))
    if problem := path_problem(path, longest and longest + 1 + len(PARTIAL)):
        raise InputError(f"{problem}.")


def write_text(path: Path, text: str) -> None:
    """Write `text` in UTF-8, its line ends as they are."""
    with written_aside(path) as aside:
        aside.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, value: Any, indent: int | None = 2) -> None:
    """Write `value` as JSON, its characters as they are."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=indent) + "\n")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        patiently(lambda: shutil.rmtree(path))
    else:
        patiently(lambda: path.unlink(missing_ok=True))
