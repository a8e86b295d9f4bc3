"""The rows of a file too large to be read whole, one after the other; the same rows that `readers` gives."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from itertools import chain, count
from typing import Any, BinaryIO

import msgspec

from corpus_tools.documents import Row
from corpus_tools.errors import InputError
from corpus_tools.files.contents import ReadLimits, decompressed, is_compressed, plain_text
from corpus_tools.files.encodings import as_utf8, marked_encoding, not_utf8
from corpus_tools.files.field_names import names_found
from corpus_tools.files.json_rows import (
    LOOKED_AT,
    WRONG,
    begins_in,
    holds_table,
    is_row,
    keys_of,
    other_title,
    record_at,
    row_type,
    rows_under,
)
from corpus_tools.files.json_stream import TOO_LONG, Scanner, outline_of, values_under
from corpus_tools.files.readers import csv_rows, parquet_rows, too_long
from corpus_tools.files.row_values import BadRows, check_fields
from corpus_tools.files.sources import TEXTS, Source, format_of
from corpus_tools.windows import explain_windows

LARGE = 16 << 20  # bytes of a file that is streamed
_COMPRESSES = 4  # a compressed file is as large as one of so many times its size
_STEP = 1 << 20  # bytes read at a time
_FIRST_LINE = 8 << 20  # bytes; in a longer one there is one object rather than a row
_BYTES = 6  # of a character in JSON: \uXXXX


def is_large(source: Source) -> bool:
    """Whether a file is streamed. A text file is one article, which is whole in memory in any case."""
    kind = format_of(source.path)
    try:
        size = source.path.stat().st_size
    except OSError:  # said when it is read
        return False
    compressed = kind == ".parquet" or is_compressed(source.path)
    return kind not in TEXTS and size * (_COMPRESSES if compressed else 1) > LARGE


class _Pieces(io.RawIOBase):
    """Pieces of bytes as a file that is read in order."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._left = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._left:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._left = memoryview(piece)
        size = min(len(buffer), len(self._left))
        buffer[:size] = self._left[:size]
        self._left = self._left[size:]
        return size


class Stream:
    """A large file, open: its rows, and the SHA-256 of all its bytes when they have been read.

    Args:
        source: File whose suffix tells the format.
        fields: Names in the file, as in `read_rows`.
        limits: How large what is read may become.
        bad: Takes the numbers of rows that cannot be used, with the reasons; an empty row is in their place.
    """

    def __init__(self, source: Source, fields: Mapping[str, str], limits: ReadLimits, bad: BadRows) -> None:
        check_fields(fields)
        self.path = source.path
        self._kind = format_of(source.path)
        self._fields = fields
        self._limits = limits
        self._bad = bad
        self._most = limits.max_row_mchars * 1_000_000
        self._open = ExitStack()
        self._digest = hashlib.sha256()
        self._stored: Iterator[bytes] = iter(())
        self._line = 0  # that has been read, where lines are

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *exception: object) -> None:
        self._open.close()

    def sha256(self) -> str:
        """The hash of the file as stored, in hexadecimal digits; what no row needed is read now."""
        if self._kind in (".parquet", *TEXTS):
            with self.path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        for _ in self._stored:
            pass
        return self._digest.hexdigest()

    def rows(self) -> Iterator[Row] | None:
        """The rows in order; None where a file is one article: a text file, or an object that is itself one row.

        Raises:
            InputError: As `read_rows` does, most of it when the rows are asked for.
        """
        try:
            if self._kind == ".parquet":
                most = self._limits.most_bytes(self.path.stat().st_size)
                return self._checked(parquet_rows(self.path, self._fields, self.path, most, self._bad))
            if self._kind in (".csv", ".tsv"):
                csv.field_size_limit(4 * self._most)
                delimiter = "\t" if self._kind == ".tsv" else ","
                rows = csv_rows(self.path, self._fields, self._text_lines(), self._bad, delimiter)
                return self._checked(rows)
            found = None if self._kind in TEXTS else self._json()
            return None if found is None else self._checked(found)
        except OSError as error:
            raise InputError(
                f"{self.path}: {error.strerror or error}; "
                f"{explain_windows(error) or 'make the file readable or leave it out'}."
            ) from error

    def _file(self) -> BinaryIO:
        """The file from its beginning, decompressed, without a byte order mark; its bytes are hashed anew."""
        self._open.close()
        stored = self._open.enter_context(self.path.open("rb"))
        self._digest = digest = hashlib.sha256()

        def pieces() -> Iterator[bytes]:
            while piece := stored.read(_STEP):
                digest.update(piece)
                yield piece

        self._stored = pieces()
        plain: Iterable[bytes] = self._stored
        if is_compressed(self.path):
            most = self._limits.most_bytes(self.path.stat().st_size)
            plain = decompressed(io.BufferedReader(_Pieces(self._stored), _STEP), self.path, most)
        file = io.BufferedReader(_Pieces(plain), _STEP)
        start = file.peek(4)[:4]
        if encoding := marked_encoding(start):
            wide = iter(partial(file.read, _STEP), b"")
            return io.BufferedReader(_Pieces(as_utf8(wide, encoding, self.path)), _STEP)
        file.read(len(start) - len(plain_text(start, self.path)))
        return file

    def _checked(self, rows: Iterable[Row]) -> Iterator[Row]:
        """The rows, an empty one for each that is too long."""
        for number, row in enumerate(rows, 1):
            if len(row.text) > self._most:
                self._bad[number] = too_long(row, self._limits)
                yield Row("")
            else:
                yield row

    def _lines(self, file: BinaryIO) -> Iterator[bytes]:
        most = _BYTES * self._most + _STEP
        for self._line in count(1):
            line = file.readline(most)
            if len(line) == most:
                raise InputError(f"{self.path}, line {self._line}: {TOO_LONG}")
            if not line:
                return
            yield line

    def _decoded(self, data: bytes) -> str:
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            where = f", line {self._line}" if self._line else ""
            raise not_utf8(self.path, where, data, error) from error

    def _text_lines(self) -> Iterator[str]:
        """The lines as text, also those that end as on an old Macintosh."""
        for line in self._lines(self._file()):
            text = self._decoded(line)
            yield from io.StringIO(text, newline="") if "\r" in text[:-2] else (text,)

    def _json(self) -> Iterator[Row] | None:
        start = self._scanner().peek()
        if start == "[" and (self._kind == ".json" or not self._has_lines()):
            return self._records(self._scanner().lists())
        if start == "{" and not self._has_lines():
            outline = outline_of(self._scanner(), self._fields)
            if outline is None:  # objects one after the other, not one a line
                return self._records(self._scanner().values())
            if is_row(self._fields, outline) or holds_table(self._fields, outline):
                return None
            key = rows_under(self.path, self._fields, outline)
            return self._records(values_under(self._scanner(), key))
        if start != "{" and self._kind == ".json":
            raise InputError(f"{self.path}: found {start!r}; wanted a list of objects, [{{...}}, ...].")
        return self._records(line for line in self._lines(self._file()) if line.strip())

    def _scanner(self) -> Scanner:
        return Scanner(self._file(), self.path, _BYTES * self._most + _STEP)

    def _has_lines(self) -> bool:
        """Whether the first line is a value of its own, and another one follows."""
        file = self._file()
        first = b""
        while not first.strip() and (first := file.readline(_FIRST_LINE)):
            pass
        if not first.endswith(b"\n") or begins_in(first):
            return False
        return any(line.strip() for line in iter(lambda: file.readline(_FIRST_LINE), b""))

    def _records(self, values: Iterable[bytes]) -> Iterator[Row]:
        numbered = ((raw, self._line) for raw in values)
        first: list[tuple[bytes, int]] = []
        while len(first) < LOOKED_AT and sum(len(raw) for raw, _ in first) < _STEP:
            if (value := next(numbered, None)) is None:
                break
            first.append(value)
        fields = names_found(self._fields, keys_of([raw for raw, _ in first]))
        decoder, other = msgspec.json.Decoder(row_type(fields), strict=False), other_title(fields)
        for number, (raw, self._line) in enumerate(chain(first, numbered), 1):
            names = fields
            try:
                row = decoder.decode(raw)
                if row.title is not None or not other.search(raw):
                    yield row
                    continue
                names = names_found(self._fields, keys_of([raw]))
            except WRONG:
                self._decoded(raw)
            yield record_at(raw, names, number, self._bad)
