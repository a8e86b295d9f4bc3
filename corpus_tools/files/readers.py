"""Files of any accepted format into rows. Whatever is wrong with a file is an error that names file, row and key."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from corpus_tools.documents import Row
from corpus_tools.errors import InputError
from corpus_tools.files.contents import (
    ReadLimits,
    decode,
    decompress,
    expands_too_much,
    plain_text,
    read_bytes,
)
from corpus_tools.files.field_names import names_found
from corpus_tools.files.json_rows import read_json
from corpus_tools.files.row_values import BadRows, check_fields, columns_of, row_of
from corpus_tools.files.sources import TEXTS, Source, format_of, title_of
from corpus_tools.files.subtitles import subtitle_lines
from corpus_tools.files.tab_quotes import with_speech_quoted

_DEFAULT_LIMITS = ReadLimits()


def read_rows(
    source: Source,
    fields: Mapping[str, str],
    data: bytes | None = None,
    limits: ReadLimits = _DEFAULT_LIMITS,
    bad: BadRows | None = None,
) -> list[Row]:
    """The rows of a file, in file order; row n of the file is item n - 1.

    Args:
        source: File whose suffix tells the format; a text file's title is its name without the ending.
        fields: Names in the file for `text`, `title`, `author`, `paragraph_id`, where they differ, and for `rows`,
            the key under which a JSON object holds its rows.
        data: The file's bytes, if already read.
        limits: How large what is read may become.
        bad: Takes the numbers of rows that cannot be used, with the reasons; an empty row is in their place. Without
            it the first such row is an error.

    Raises:
        InputError: The file is unreadable, damaged, not UTF-8, larger than the limits, or lacks a text somewhere.
    """
    check_fields(fields)
    path = source.path
    data = decompress(read_bytes(path) if data is None else data, path, limits)
    kind = format_of(path)
    found = BadRows()
    if kind == ".parquet":
        rows = _read_parquet(path, fields, data, found, limits)
    else:
        data = plain_text(data, path)
        if kind in (".csv", ".tsv"):
            rows = _read_csv(path, fields, data, found, "\t" if kind == ".tsv" else ",")
        elif kind in TEXTS:
            title, text = title_of(source.name), decode(path, data)
            lines = list(io.StringIO(text, newline="")) if kind == ".txt" else subtitle_lines(text)
            rows = [Row(line, title) for line in lines]
        else:
            rows = read_json(path, fields, data, found, lines=kind != ".json")
    if kind == ".parquet" or len(data) > limits.max_row_mchars * 1_000_000:
        _check_sizes(rows, limits, found)
    if found and (bad is None or len(found) == len(rows)):
        number, reason = next(iter(found.items()))
        raise InputError(f"{path}, row {number}: {reason}")
    if bad is not None:
        bad.update(found)
    return rows


def _check_sizes(rows: list[Row], limits: ReadLimits, bad: BadRows) -> None:
    most = limits.max_row_mchars * 1_000_000
    if max([len(row.text) for row in rows], default=0) > most:
        for i, row in enumerate(rows):
            if len(row.text) > most:
                bad[i + 1] = too_long(row, limits)
                rows[i] = Row("")


def too_long(row: Row, limits: ReadLimits) -> str:
    """Why a row that exceeds the limit cannot be used."""
    return (
        f"the text has {len(row.text):,} characters; part it into rows, or raise --max_row_mchars "
        f"(now {limits.max_row_mchars}) and have 25 bytes of memory for each."
    )


def _read_csv(path: Path, fields: Mapping[str, str], data: bytes, bad: BadRows, delimiter: str) -> list[Row]:
    csv.field_size_limit(sys.maxsize)
    return list(csv_rows(path, fields, io.StringIO(decode(path, data), newline=""), bad, delimiter))


def csv_rows(
    path: Path, fields: Mapping[str, str], lines: Iterable[str], bad: BadRows, delimiter: str
) -> Iterator[Row]:
    """The rows of a CSV file's lines, with an empty row for a blank line and for one that cannot be used.

    Raises:
        InputError: There is no column of texts, or quotes do not match.
    """
    lines, delimiter = _delimited(iter(lines), fields, delimiter)
    if delimiter == "\t":
        lines = with_speech_quoted(lines)
    records = csv.reader(lines, delimiter=delimiter, strict=True)
    number = 0
    try:
        header = next(records, [])
        columns = columns_of(path, fields, [name.strip() for name in header])
        for number, record in enumerate(records, 1):
            if not record:  # a blank line is no record
                yield Row("")
            elif len(record) != len(header):
                bad[number] = (
                    f"{len(record)} values for {len(header)} columns; "
                    "put quotes around values that hold the delimiter."
                )
                yield Row("")
            else:
                yield row_of({name: record[i] for name, i in columns.items()}, number, bad)
    except csv.Error as error:
        raise InputError(f"{path}, row {number + 1}: {error}; check its quotes.") from error


def _delimited(lines: Iterator[str], fields: Mapping[str, str], delimiter: str) -> tuple[Iterator[str], str]:
    """The lines, and what parts their values: another mark if Excel's first line says so, or if only by that the header
    has a column of texts. Excel writes semicolons where a comma is the decimal point.
    """
    first = next(lines, "")
    named = first.strip().strip('"')
    if named.lower().startswith("sep=") and len(named) == 5:
        return lines, named[4]
    for mark in (delimiter, ",", ";", "\t", "|"):
        names = [name.strip().strip('"') for name in first.rstrip("\r\n").split(mark)]
        if names_found(fields, names).get("text", "text") in names:
            return chain((first,), lines), mark
    return chain((first,), lines), delimiter


def _read_parquet(
    path: Path, fields: Mapping[str, str], data: bytes, bad: BadRows, limits: ReadLimits
) -> list[Row]:
    import pyarrow as pa

    return list(parquet_rows(path, fields, pa.BufferReader(data), limits.most_bytes(len(data)), bad))


_ROWS_AT_ONCE = 1 << 20  # bytes


def parquet_rows(path: Path, fields: Mapping[str, str], data: Any, most: int, bad: BadRows) -> Iterator[Row]:
    """The rows of a Parquet file, of which a few are in memory at a time.

    Raises:
        InputError: The file is damaged, has no column of texts, or becomes more than `most` bytes.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    size = number = 0
    try:
        file = pq.ParquetFile(data, buffer_size=1 << 20)
        columns = columns_of(path, fields, file.schema_arrow.names)
        names = [file.schema_arrow.names[i] for i in columns.values()]
        groups = [file.metadata.row_group(i) for i in range(file.num_row_groups)]
        stored = sum(group.total_byte_size for group in groups)
        at_once = max(1, _ROWS_AT_ONCE * file.metadata.num_rows // max(1, stored))
        for batch in file.iter_batches(min(at_once, 1 << 16), columns=names):
            size += batch.nbytes
            if size > most:
                raise expands_too_much(path, most)
            for record in batch.select(names).rename_columns(list(columns)).to_pylist():
                number += 1
                yield row_of(record, number, bad)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a readable Parquet file ({error}); write it again.") from error
