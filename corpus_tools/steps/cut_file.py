"""A large file into parts: its rows, read one after the other, go into the work folder, where parts are read again.

A part ends where a title ends. Which titles it has is written down, for rows of a title may lie anywhere in a file.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from corpus_tools.documents import Row
from corpus_tools.errors import InputError
from corpus_tools.files.atomic import written_aside
from corpus_tools.files.readers import read_rows
from corpus_tools.files.row_values import BadRows
from corpus_tools.files.sources import Source
from corpus_tools.files.streams import Stream
from corpus_tools.filtering.deduplication import hash_names
from corpus_tools.steps.clean_shard import ShardOptions
from corpus_tools.steps.row_kinds import Evidence, RowSample
from corpus_tools.steps.units import UNIT_BYTES, StoredRow

# A title by an author in a part of a file: their hashes (0: none), and the bytes of the rows there.
NAMES = np.dtype([("title", "u8"), ("author", "u8"), ("size", "u8"), ("part", "u4")])


class CutFile(msgspec.Struct):
    """A large file in the work folder: its parts are bytes of `rows_file`, which end at `ends`.

    `names_file` holds records of NAMES, in the order in which titles and authors first come in each part, which has so
    many `records`. `given` has the author of a title where some rows name one and others none, `apart` the titles of
    which rows name several authors and others none.
    """

    name: str
    sha256: str = ""
    size: int = 0
    rows: int = 0
    ends: list[int] = []
    kind: Evidence = Evidence("window")
    rows_file: str = ""
    names_file: str = ""
    records: list[int] = []
    given: dict[int, int] = {}
    apart: list[int] = []
    bad_rows: dict[str, str] = {}
    error: str = ""


def cut_file(source: Source, folder: Path, options: ShardOptions) -> CutFile:
    """Write a file's rows into a folder, part by part.

    Raises:
        InputError: The file cannot be used, unless `skip_bad_files`, which also leaves out bad rows of good files.
    """
    stem = hashlib.sha256(source.name.encode(errors="surrogateescape")).hexdigest()[:32]
    bad = BadRows()
    try:
        with Stream(source, options.fields, options.limits, bad) as stream:
            rows = stream.rows()
            if rows is None:
                rows = iter(read_rows(source, options.fields, None, options.limits, bad))
            cutter = _Cutter(folder / f"{stem}.rows")
            with written_aside(cutter.path) as aside, aside.open("wb") as file:
                for row in rows:
                    if bad and not options.skip_bad_files:
                        raise _unusable(source, bad)
                    file.write(cutter.add(row, cutter.rows + 1 in bad))
                cutter.close()
            if len(bad) == cutter.rows and bad:
                raise _unusable(source, bad)
            names, given, apart = _give_authors(np.concatenate([np.zeros(0, NAMES), *cutter.names]))
            names.tofile(folder / f"{stem}.names")
            return CutFile(
                source.name,
                stream.sha256(),
                source.path.stat().st_size,
                cutter.rows,
                cutter.ends,
                cutter.sample.judge() if options.rows == "auto" else Evidence(options.rows),
                str(folder / f"{stem}.rows"),
                str(folder / f"{stem}.names"),
                list(map(len, cutter.names)),
                given,
                apart,
                {f"{source.name}, row {row}": reason for row, reason in bad.items()},
            )
    except InputError as error:
        if not options.skip_bad_files:
            raise
        return CutFile(source.name, error=str(error))


def _unusable(source: Source, bad: BadRows) -> InputError:
    number, reason = next(iter(bad.items()))
    return InputError(f"{source.path}, row {number}: {reason}")


class _Cutter:
    """Where the parts of a file end, and which titles each has."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows = 0
        self.ends: list[int] = []
        self.names: list[npt.NDArray[np.void]] = []
        self.sample = RowSample()
        self._encode = msgspec.json.Encoder().encode
        self._at = self._start = 0  # in bytes
        self._sizes: dict[tuple[str | None, str | None], int] = {}  # of the titles and authors of the part
        self._now: tuple[str | None, str | None] = (None, None)

    def add(self, row: Row, bad: bool) -> bytes:
        """The next row as it is stored."""
        names = (row.title, row.author)
        if (names != self._now or not row.title) and self._at - self._start >= UNIT_BYTES:
            self.close()
        self._now = names
        self.rows += 1
        self.sample.add(row)
        line = self._encode(StoredRow(0, self.rows, row.text, *names, row.paragraph_id, bad)) + b"\n"
        if row.title and not row.title.isspace():
            self._sizes[names] = self._sizes.get(names, 0) + len(line)
        self._at += len(line)
        return line

    def close(self) -> None:
        """End the part."""
        if self._at > self._start:
            part = len(self.ends)
            found = [(*hash_names(*names), size, part) for names, size in self._sizes.items()]
            self.names.append(np.array(found, NAMES))
            self.ends.append(self._at)
        self._sizes, self._start = {}, self._at


def _give_authors(names: npt.NDArray[np.void]) -> tuple[npt.NDArray[np.void], dict[int, int], list[int]]:
    """The records, with the author of a title where its rows name one and other rows of it none; these titles and
    authors; and the titles of which they name several, so that rows without one belong to none of them.
    """
    nameless = names["author"] == 0
    of_nameless = np.isin(names["title"], names["title"][nameless])
    named = np.unique(names[of_nameless & ~nameless][["title", "author"]])
    titles, counts = np.unique(named["title"], return_counts=True)
    given = named[np.isin(named["title"], titles[counts == 1])]
    wanting = np.flatnonzero(nameless & np.isin(names["title"], given["title"]))
    if len(wanting):
        names["author"][wanting] = given["author"][np.searchsorted(given["title"], names["title"][wanting])]
    pairs = zip(given["title"].tolist(), given["author"].tolist(), strict=True)
    return names, dict(pairs), titles[counts > 1].tolist()
