"""Files of records with values of any kind: JSON lines, a JSON list, CSV and Parquet, gzipped or not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from taigi_lightning.errors import InputError
from taigi_lightning.tasks.question_files import FORMATS, json_records, parquet_records, read_table, read_text

RECORD_FORMATS = (*FORMATS, ".json", ".json.gz")


class Record(NamedTuple):
    """One record: its number from 1, where it stands in the file, and its values by column."""

    number: int
    place: str
    values: dict[str, Any]


def read_records(path: Path) -> list[Record]:
    """Read a file's records; those of a CSV are text.

    Raises:
        InputError: the file is absent, empty, damaged, or of another format.
    """
    name = path.name.lower()
    if path.is_dir():
        raise InputError(f"{path} is a folder; give one of its files.")
    if not path.is_file():
        raise InputError(f"There is no file {path}. Check the path, or make the file first.")
    if not name.endswith(RECORD_FORMATS):
        raise InputError(f"{path} is in none of the formats read here: {', '.join(RECORD_FORMATS)}.")
    if name.endswith(".parquet"):
        found = [
            (f"row {number}", {name: _without_absent(value) for name, value in values.items()})
            for number, values in enumerate(parquet_records(path), start=1)
        ]
    elif name.endswith((".jsonl", ".jsonl.gz")):
        found = [(f"line {line}", values) for line, values in json_records(read_text(path), path)]
    elif name.endswith((".json", ".json.gz")):
        found = _json_list(path)
    else:
        header, rows = read_table(path)
        if twice := sorted({name for name in header if header.count(name) > 1}):
            raise InputError(f"{path} has more than one column {', '.join(twice)}. Keep one of each.")
        found = [
            (str(row), dict(zip(header, _fields(row.fields, header, row, path), strict=True))) for row in rows
        ]
    if not found:
        raise InputError(f"{path} holds no rows. Check how it was made.")
    return [Record(number, place, values) for number, (place, values) in enumerate(found, start=1)]


def _without_absent(value: Any) -> Any:
    """A nested value without what its row lacks: Parquet gives every object the keys that any of them has."""
    if isinstance(value, dict):
        return {key: _without_absent(inner) for key, inner in value.items() if inner is not None}
    return [_without_absent(inner) for inner in value] if isinstance(value, list) else value


def _json_list(path: Path) -> list[tuple[str, dict[str, Any]]]:
    text = read_text(path)
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path} is not JSON: {error}. Write a list of objects, or one object a line as .jsonl."
        ) from error
    rows = content if isinstance(content, list) else [content]
    if wrong := [row for row in rows if not isinstance(row, dict)]:
        raise InputError(f"{path} lists a {type(wrong[0]).__name__}; wanted objects with the columns' names.")
    return [(f"item {number}", row) for number, row in enumerate(rows, start=1)]


def _fields(fields: list[str], header: list[str], place: object, path: Path) -> list[str]:
    if len(fields) != len(header):
        raise InputError(
            f"{path}, {place} has {len(fields)} fields where the header has {len(header)}. Put double quotes around "
            "each field that holds a comma."
        )
    return fields
