"""Files written under a temporary name, then renamed: a reader sees the old file or the new one, never a half."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from corpus_tools.windows import patiently


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """A temporary name in the same folder, renamed to `path` once the block succeeds."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield aside
        patiently(lambda: aside.replace(path))
    finally:
        patiently(lambda: aside.unlink(missing_ok=True))


def write_text(path: Path, text: str) -> None:
    """`text` in UTF-8, its line ends as they are."""
    with written_aside(path) as aside:
        aside.write_text(text, encoding="utf-8", newline="\n")


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """`value` as readable JSON."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2) + "\n")
