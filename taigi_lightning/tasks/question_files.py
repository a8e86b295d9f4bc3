"""Question files as plain rows of text: CSV, JSON lines and Parquet, gzipped or not."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from taigi_lightning.errors import InputError
from taigi_lightning.windows import other_encoding

FORMATS = (".csv", ".csv.gz", ".jsonl", ".jsonl.gz", ".parquet")


class Row(NamedTuple):
    """One data row: its number (the first below the header is 1), the line it ends on, its fields."""

    number: int
    line: int
    fields: list[str]

    def __str__(self) -> str:
        return f"row {self.number} (line {self.line})"


def read_table(path: Path) -> tuple[list[str], list[Row]]:
    r"""Read a file's header and rows as text; rows without any text are left out.

    Fields come as they are, but for line ends, which become `\n`. A CSV row keeps as many fields as it
    has: the caller knows what too many or too few of them mean.

    Raises:
        InputError: the file is absent, empty, of another format, not UTF-8, or breaks off inside a quote.
    """
    name = path.name.lower()
    if path.is_dir():
        raise InputError(f"{path} is a folder; give one of its files.")
    if not path.is_file():
        raise InputError(f"There is no file {path}. Check the path, or make the file first.")
    if not name.endswith(FORMATS):
        raise InputError(f"{path} is in none of the formats read here: {', '.join(FORMATS)}. Save it as CSV.")
    if name.endswith(".parquet"):
        return _from_records(enumerate(parquet_records(path), start=1), path)
    text = read_text(path)
    if ".jsonl" in name:
        return _from_records(json_records(text, path), path)
    return _from_csv(text, path)


def read_text(path: Path) -> str:
    """A file's text, unpacked if it is gzipped, with line feeds alone.

    Raises:
        InputError: it is not UTF-8, or no complete gzip file.
    """
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
            data = file.read()
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not UTF-8 (byte {error.start}: {error.reason}). Save it as UTF-8.{other_encoding(data)}"
        ) from error
    except (gzip.BadGzipFile, EOFError) as error:
        raise InputError(f"{path} is not a complete gzip file ({error}). Compress it again.") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _from_csv(text: str, path: Path) -> tuple[list[str], list[Row]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        lines = [(reader.line_num, fields) for fields in reader]
    except csv.Error as error:
        raise InputError(
            f"{path}, near line {reader.line_num}: {error}. Inside a quoted field a double quote is written "
            "twice, and every quoted field needs its closing quote."
        ) from error
    lines = [(line, fields) for line, fields in lines if any(field.strip() for field in fields)]
    if not lines:
        raise InputError(f"{path} is empty. Its first line must name the columns.")
    rows = [Row(number, line, fields) for number, (line, fields) in enumerate(lines[1:], start=1)]
    return lines[0][1], rows


def json_records(text: str, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each line's number and its object; lines without any text are left out.

    Raises:
        InputError: a line is not JSON, or no object.
    """
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(
                f"{path}, line {number} is not JSON: {error}. Write one object a line."
            ) from error
        if not isinstance(record, dict):
            raise InputError(
                f"{path}, line {number} is a JSON {type(record).__name__}. Write one object a line."
            )
        yield number, record


def parquet_records(path: Path) -> list[dict[str, Any]]:
    """A Parquet file's rows.

    Raises:
        InputError: it is not a Parquet file.
    """
    try:
        records: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    except pa.ArrowInvalid as error:
        raise InputError(f"{path} is not a Parquet file ({error}). Write it again.") from error
    return records


def _from_records(records: Iterable[tuple[int, dict[str, Any]]], path: Path) -> tuple[list[str], list[Row]]:
    numbered = list(records)
    if not numbered:
        raise InputError(f"{path} holds no rows. Check how it was made.")
    header = list(dict.fromkeys(str(key) for _, record in numbered for key in record))
    rows = [
        Row(number, line, ["" if record.get(key) is None else str(record[key]) for key in header])
        for number, (line, record) in enumerate(numbered, start=1)
    ]
    return header, rows
