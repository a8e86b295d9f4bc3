"""The values of a row, which mean the same in every format: 2.0 is the second row, a title may be a number."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from corpus_tools.documents import Row
from corpus_tools.errors import InputError
from corpus_tools.files.field_names import names_found

ROWS = "rows"  # the field that names the key under which a JSON object holds its rows


class BadRows(dict[int, str]):
    """Rows that cannot be used: their numbers in the file, from 1, and the reasons."""


def check_fields(fields: Mapping[str, str]) -> None:
    """Refuse names of fields that no row has."""
    known = (*Row.__struct_fields__, ROWS)
    unknown = sorted(set(fields) - set(known))
    if unknown:
        raise InputError(f"unknown field {', '.join(unknown)}; fields are {', '.join(known)}.")


def columns_of(path: Path, fields: Mapping[str, str], header: Sequence[str]) -> dict[str, int]:
    """The place of each field that a file has among its columns."""
    called = names_found(fields, header)
    names = {name: called.get(name, name) for name in Row.__struct_fields__}
    if names["text"] not in header:
        # A table without a header would lose its first row to --fields.text.
        a_row = any(name.isdecimal() for name in header)
        first = " If that is a row, put a line of names above it." if a_row else ""
        raise InputError(f"{path}: no column {names['text']!r} among {_listed(header)}; {NAME_IT}{first}")
    twice = [column for column in names.values() if header.count(column) > 1]
    if twice:
        raise InputError(f"{path}: two columns are named {twice[0]!r}; rename or remove one.")
    return {name: header.index(column) for name, column in names.items() if column in header}


NAME_IT = "name the right one with --fields.text."


def _listed(columns: Iterable[str]) -> str:
    return ", ".join(map(str, columns)) or "no columns"


def row_of(values: Mapping[str, Any], number: int, bad: BadRows) -> Row:
    """A row of values as a file gives them; an empty row, and an entry in `bad`, where they cannot be used."""
    try:
        return Row(
            _text(values.get("text")),
            _name("title", values.get("title")),
            _name("author", values.get("author")),
            _number(values.get("paragraph_id")),
        )
    except ValueError as error:
        bad[number] = str(error)
        return Row("")


def record_of(record: Any, fields: Mapping[str, str], number: int, bad: BadRows) -> Row:
    """The row of a JSON value; an empty row, and an entry in `bad`, where it is none."""
    name = fields.get("text", "text")
    if isinstance(record, str):
        return Row(record)
    if not isinstance(record, dict):
        bad[number] = f"found {type(record).__name__}; wanted an object with a text, or a text."
    elif name not in record:
        bad[number] = f"no {name!r} among {_listed(record)}; {NAME_IT}"
    else:
        values = {field: record.get(fields.get(field, field)) for field in Row.__struct_fields__}
        return row_of(values, number, bad)
    return Row("")


def _text(value: Any) -> str:
    """A text, or a list of its paragraphs or lines, the last of which is as whole as the others.

    >>> _text(["一更更鼓月照山", "牽君的手摸心肝"])
    '一更更鼓月照山\\n牽君的手摸心肝\\n'
    """
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        return "".join(line.rstrip("\n") + "\n" for line in value)
    if not isinstance(value, str):
        raise ValueError(f"the text is {value!r:.60}; wanted text.")
    return value


def _name(field: str, value: Any) -> str | None:
    """A title or an author: text or a number.

    >>> _name("title", 1984), _name("title", 1984.0), _name("title", float("nan"))
    ('1984', '1984', None)
    """
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{field} is {value!r:.60}; wanted text.")
    if math.isnan(value):
        return None
    # pandas makes 1984.0 of 1984 where another row's title is missing.
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _number(value: Any) -> int | None:
    """A row's number, if it has one.

    >>> _number("2.0"), _number(2.0), _number(" 2"), _number(""), _number(float("nan"))
    (2, 2, 2, None, None)
    """
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    try:
        if isinstance(value, str):
            value = float(value) if "." in value else int(value)
        if isinstance(value, int | float) and not isinstance(value, bool) and value == int(value):
            return int(value)
    except (ValueError, OverflowError):
        pass
    raise ValueError(f"paragraph_id is {value!r:.60}; wanted a whole number.")
