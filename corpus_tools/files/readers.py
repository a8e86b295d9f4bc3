"""Files of any accepted format into rows. Whatever is wrong with a file is an error that names file, row and key."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Mapping
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
from corpus_tools.files.json_rows import read_json
from corpus_tools.files.row_values import BadRows, check_fields, columns_of, row_of
from corpus_tools.files.sources import Source, format_of, title_of

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
        elif kind == ".txt":
            title = title_of(source.name)
            rows = [Row(line, title) for line in decode(path, data).splitlines(keepends=True)]
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
                bad[i + 1] = (
                    f"the text has {len(row.text):,} characters; part it into rows, or raise --max_row_mchars "
                    f"(now {limits.max_row_mchars}) and have 25 bytes of memory for each."
                )
                rows[i] = Row("")


def _read_csv(path: Path, fields: Mapping[str, str], data: bytes, bad: BadRows, delimiter: str) -> list[Row]:
    csv.field_size_limit(sys.maxsize)
    records = csv.reader(io.StringIO(decode(path, data), newline=""), delimiter=delimiter, strict=True)
    rows: list[Row] = []
    try:
        header = next(records, [])
        columns = columns_of(path, fields, [name.strip() for name in header])
        for record in records:
            if not record:  # a blank line is no record
                rows.append(Row(""))
            elif len(record) != len(header):
                bad[len(rows) + 1] = (
                    f"{len(record)} values for {len(header)} columns; "
                    "put quotes around values that hold the delimiter."
                )
                rows.append(Row(""))
            else:
                rows.append(row_of({name: record[i] for name, i in columns.items()}, len(rows) + 1, bad))
    except csv.Error as error:
        raise InputError(f"{path}, row {len(rows) + 1}: {error}; check its quotes.") from error
    return rows


def _read_parquet(
    path: Path, fields: Mapping[str, str], data: bytes, bad: BadRows, limits: ReadLimits
) -> list[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    most, size = limits.most_bytes(len(data)), 0
    records: list[dict[str, Any]] = []
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        columns = columns_of(path, fields, file.schema_arrow.names)
        names = [file.schema_arrow.names[i] for i in columns.values()]
        for batch in file.iter_batches(columns=names):
            size += batch.nbytes
            if size > most:
                raise expands_too_much(path, most)
            records += batch.select(names).rename_columns(list(columns)).to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a readable Parquet file ({error}); write it again.") from error
    return [row_of(record, number, bad) for number, record in enumerate(records, 1)]
