"""JSON by columns, as pandas writes a table: each field once, with the values of all rows below it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from corpus_tools.documents import Row
from corpus_tools.errors import InputError
from corpus_tools.files.field_names import names_found

_SPLIT = ("columns", "data")  # the keys of a table whose rows are lists


def holds_columns(whole: Mapping[str, msgspec.Raw], fields: Mapping[str, str]) -> bool:
    """Whether the values of an object are columns of rows.

    Texts in a list alone are the paragraphs or lines of one text, unless titles, authors or numbers are in lists too.

    >>> def raw(**values): return {key: msgspec.Raw(value.encode()) for key, value in values.items()}
    >>> holds_columns(raw(title='{"0": "甲"}', text='{"0": "阮"}'), {}), holds_columns(raw(text='["阮", "恁"]'), {})
    (True, False)
    >>> split = raw(columns='["text"]', data='[["阮"]]')
    >>> holds_columns(raw(title='["甲"]', text='["阮"]'), {}), holds_columns(split, {})
    (True, True)
    """
    if _is_split(whole):
        return True
    wanted = _wanted(whole, fields)
    kinds = {bytes(whole[key])[:1] for key in wanted}
    return _text(fields, whole) in whole and (kinds == {b"{"} or (kinds == {b"["} and len(wanted) > 1))


def _is_split(whole: Mapping[str, msgspec.Raw]) -> bool:
    values = [bytes(whole[key]) if key in whole else b"" for key in _SPLIT]
    return values[0][:1] == b"[" and re.match(rb"\[\s*\[", values[1]) is not None


def _text(fields: Mapping[str, str], whole: Mapping[str, Any]) -> str:
    return names_found(fields, whole).get("text", "text")


def _wanted(whole: Mapping[str, Any], fields: Mapping[str, str]) -> list[str]:
    """The keys of an object that fields are called by."""
    names = names_found(fields, whole)
    return [key for key in (names.get(field, field) for field in Row.__struct_fields__) if key in whole]


def rows_of_columns(path: Path, whole: Mapping[str, msgspec.Raw], fields: Mapping[str, str]) -> list[bytes]:
    """The rows as JSON objects.

    Raises:
        InputError: The columns do not hold the same rows.
    """
    if _is_split(whole):
        names = msgspec.json.decode(whole["columns"], type=list[str])
        values = msgspec.json.decode(whole["data"], type=list[list[Any]])
        if any(len(row) != len(names) for row in values):
            raise InputError(
                f"{path}: a row has not {len(names)} values, as its columns say; write it again."
            )
        return [msgspec.json.encode(dict(zip(names, row, strict=True))) for row in values]
    columns = {key: msgspec.json.decode(whole[key]) for key in _wanted(whole, fields)}
    rows = {key: dict(enumerate(c)) if isinstance(c, list) else c for key, c in columns.items()}
    numbers = rows[_text(fields, whole)]
    for key, column in rows.items():
        if column.keys() != numbers.keys():
            raise InputError(
                f"{path}: {len(column)} values of {key!r} for {len(numbers)} texts, or other ones; write it again."
            )
    return [msgspec.json.encode({key: column[n] for key, column in rows.items()}) for n in numbers]
