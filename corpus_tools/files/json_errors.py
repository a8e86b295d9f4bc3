"""Where a JSON file that the fast parser refuses goes wrong: the row, and what was wanted of it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from corpus_tools.documents import Row
from corpus_tools.errors import InputError


def _json_values(text: str, lines: bool) -> Iterator[tuple[int, Any]]:
    """Each row's number and value, by the slow parser that can say where it stopped."""
    decoder = json.JSONDecoder()
    if lines:
        values = [(n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
        yield from ((n, decoder.decode(line)) for n, line in values)
        return
    at = len(text) - len(text.lstrip())
    if text[at : at + 1] != "[":
        raise InputError(f"found {text[at : at + 12]!r}; wanted a list of objects, [{{...}}, ...].")
    for n in range(1, len(text)):
        at += 1
        while text[at : at + 1].isspace():
            at += 1
        if text[at : at + 1] == "]":
            return
        value, at = decoder.raw_decode(text, at)
        while text[at : at + 1].isspace():
            at += 1
        if text[at : at + 1] not in (",", "]"):
            raise json.JSONDecodeError("expected , or ]", text, at)
        yield n, value
        if text[at] == "]":
            return


def explain_json(path: Path, fields: Mapping[str, str], text: str, lines: bool) -> None:
    """Raise the error that names the first bad row of a JSON file, if the slow parser finds one."""
    number = 0
    try:
        for found, value in _json_values(text, lines):
            number = found
            _check_row(value, fields)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path}, row {number + 1} (line {error.lineno}): {error.msg}; the file is damaged or cut off."
        ) from error
    except RecursionError as error:
        raise InputError(f"{path}, row {number + 1}: nested too deeply; wanted flat objects.") from error
    except InputError as error:
        raise InputError(f"{path}, row {max(number, 1)}: {error}") from error


def _check_row(value: Any, fields: Mapping[str, str]) -> None:
    if not isinstance(value, dict):
        raise InputError(f"found {type(value).__name__}; wanted an object with a text.")
    for name in Row.__struct_fields__:
        key = fields.get(name, name)
        if key not in value:
            if name == "text":
                raise InputError(
                    f"no {key!r} among {name_columns(value)}; name the right one with --fields.text."
                )
            continue
        found = value[key]
        wanted = int if name == "paragraph_id" else str
        if name == "paragraph_id" and isinstance(found, str) and found.strip().lstrip("-").isdecimal():
            continue
        if not (isinstance(found, wanted) or (found is None and name != "text")):
            raise InputError(f"{key!r} is {found!r:.60}; wanted {'a number' if wanted is int else 'text'}.")
        if isinstance(found, str) and any("\ud800" <= c <= "\udfff" for c in found):
            raise InputError(
                f"{key!r} holds half a surrogate pair, which is no character; repair the escape."
            )


def name_columns(columns: Iterable[str]) -> str:
    """A file's columns for an error message."""
    return ", ".join(map(str, columns)) or "no columns"
