"""What is cleaned at once: whole files, some rows of a large one, or whole articles whose rows lay far apart."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from corpus_tools.files.sources import Source
from corpus_tools.steps.row_kinds import Evidence

UNIT_BYTES = (
    8 << 20
)  # of a large file's rows that are cleaned at once, and more only where one article has more


class StoredRow(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A row of a large file in the work folder: its number in file number `source` of its unit, from 1.

    Of a row that cannot be used only number and place are kept.
    """

    source: int
    number: int
    text: str
    title: str | None = None
    author: str | None = None
    paragraph_id: int | None = None
    bad: bool = False


class Unit(NamedTuple):
    """What is cleaned at once: the files `sources`, or rows that are stored.

    Those are bytes of a file, `span` (file, start, end), or articles gathered from several places, `bin` (folder,
    number). What the rows of each source are is then known. `apart` has (number of a source, hash of a title) where
    rows without an author belong to none of the authors whom other rows of that title name.
    """

    sources: tuple[Source, ...]
    span: tuple[Path, int, int] | None = None
    bin: tuple[Path, int] | None = None
    kinds: tuple[Evidence, ...] = ()
    apart: frozenset[tuple[int, int]] = frozenset()


def stored_bytes(unit: Unit) -> bytes | None:
    """The stored rows of a unit, one a line; None if its files are to be read."""
    if unit.span:
        return _read(*unit.span)
    if unit.bin:
        folder, number = unit.bin
        ends = np.load(folder / "ends.npy", mmap_mode="r")
        starts = ends[:, number - 1].tolist() if number else [0] * len(ends)
        spans = enumerate(zip(starts, ends[:, number].tolist(), strict=True))
        return b"".join(_read(folder / f"{file}.rows", *span) for file, span in spans if span[0] < span[1])
    return None


def _read(path: Path, start: int, end: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read(end - start)


def rows_in(data: bytes) -> list[StoredRow]:
    """The rows of such bytes."""
    return msgspec.json.Decoder(StoredRow).decode_lines(data)
