"""JSON into rows: a list of objects, an object a line, or one object that is a row or holds the rows under a key."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, cast

import msgspec

from corpus_tools.documents import Row
from corpus_tools.errors import InputError
from corpus_tools.files.contents import MEND, decode
from corpus_tools.files.field_names import names_found, names_of
from corpus_tools.files.json_columns import holds_columns, rows_of_columns
from corpus_tools.files.row_values import ROWS, BadRows, record_of

WRONG = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_SURROGATE = "it holds half a surrogate pair, which is no character; repair the escape."
LOOKED_AT = 20  # rows whose keys are looked at
_HEAD = 1 << 12  # bytes in which such rows are looked for
_NAN = re.compile(rb":\s*NaN\b")
_HALF_A_PAIR = re.compile(rb"\\u[dD][89a-fA-F]|\xed[\xa0-\xbf]")


def read_json(path: Path, fields: Mapping[str, str], data: bytes, bad: BadRows, *, lines: bool) -> list[Row]:
    """The rows of a JSON file, or of a file with an object on each line.

    Raises:
        InputError: The file is damaged, or holds no rows.
    """
    start = data.lstrip()[:1]
    lines = lines or start == b"{"
    found = names_found(fields, _first_keys(data))
    kind = row_type(found)
    try:
        if lines:
            rows = msgspec.json.Decoder(kind, strict=False).decode_lines(data)
        else:
            rows = msgspec.json.Decoder(list[kind], strict=False).decode(data)  # type: ignore[valid-type]
        if all(row.title is not None for row in rows) or not other_title(found).search(data):
            return rows
    except WRONG:
        decode(path, data)  # names the line of a byte that is not UTF-8
    records = _split(path, fields, data, lines)
    found = names_found(fields, keys_of(records))
    other = other_title(found)
    return [
        record_at(raw, names_found(fields, keys_of([raw])) if other.search(raw) else found, number, bad)
        for number, raw in enumerate(records, 1)
    ]


@cache
def _title_names(used: str) -> re.Pattern[bytes]:
    names = b"|".join(re.escape(name.encode()) for name in names_of("title"))
    return re.compile(
        rb'"(?!(?-i:' + re.escape(used.encode()) + rb')"\s*:)\s*(?:' + names + rb')\s*"\s*:', re.IGNORECASE
    )


def other_title(fields: Mapping[str, str]) -> re.Pattern[bytes]:
    """Finds a key that could be a title's and is none that a file's first rows use: later ones may name it so."""
    return _title_names(fields.get("title", "title"))


def _first_keys(data: bytes) -> list[str]:
    """The keys of the first objects; of more of the data only where none ends soon."""
    for size in (_HEAD, 16 * _HEAD, len(data)):
        text = data[:size].decode(errors="ignore").lstrip(" \t\r\n[")
        keys: dict[str, None] = {}
        try:
            while text.startswith("{"):
                record, end = json.JSONDecoder().raw_decode(text)
                keys |= dict.fromkeys(record)
                text = text[end:].lstrip(" \t\r\n,")
        except (json.JSONDecodeError, RecursionError):
            pass
        if keys:
            break
    return list(keys)


def keys_of(records: Sequence[bytes]) -> list[str]:
    """The keys of the first of some JSON values, those of them that are objects."""
    keys: dict[str, None] = {}
    for record in records[:LOOKED_AT]:
        try:
            keys |= dict.fromkeys(msgspec.json.decode(record, type=dict[str, msgspec.Raw]))
        except WRONG:  # said with the row
            continue
    return list(keys)


def row_type(fields: Mapping[str, str]) -> type[Row]:
    names = {name: key for name, key in fields.items() if name != ROWS}
    if not names:
        return Row
    columns = [
        (f.name, f.type, f.default) if not f.required else (f.name, f.type)
        for f in msgspec.structs.fields(Row)
    ]
    mapped = msgspec.defstruct("Row", columns, rename=names, frozen=True, gc=False)
    return cast(type[Row], mapped)


def record_at(raw: bytes, fields: Mapping[str, str], number: int, bad: BadRows) -> Row:
    """The row of one JSON value, by the parser that takes whatever a value may be."""
    try:
        # NaN, which is no JSON, is what pandas and Python write for a value that is missing.
        has_nan = _NAN.search(raw) and not _HALF_A_PAIR.search(raw)
        record = json.loads(raw) if has_nan else msgspec.json.decode(raw)
    except (*WRONG, json.JSONDecodeError) as error:
        damage = f"{error}; the row is damaged or cut off; {MEND}"
        bad[number] = _SURROGATE if _HALF_A_PAIR.search(raw) else damage
        return Row("")
    return record_of(record, fields, number, bad)


def _split(path: Path, fields: Mapping[str, str], data: bytes, lines: bool) -> list[bytes]:
    """The file's rows, none of them parsed yet."""
    if not lines:
        return _items(path, data.decode())
    try:
        whole = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
    except WRONG:
        filled = [line for line in data.split(b"\n") if line.strip()]
        if len(filled) > 1 and not begins_in(filled[0]):
            return filled
        return _items(path, data.decode())
    return list(map(bytes, _rows_of_object(path, fields, data, whole)))


def begins_in(line: bytes) -> bool:
    """Whether a line is the beginning of a value that goes on in the next."""
    try:
        json.JSONDecoder().raw_decode(line.decode())
    except json.JSONDecodeError as error:
        return error.pos >= len(line.decode().rstrip())
    return False


class Outline(NamedTuple):
    """What a JSON object holds: its keys; whether the first object has a text, of each key whose value is a list of
    objects; whether all its values are objects.
    """

    keys: list[str]
    lists: dict[str, bool]
    only_objects: bool


def rows_under(path: Path, fields: Mapping[str, str], outline: Outline) -> str | None:
    """The key of the list that holds the rows: the one that `fields` names or the only one; None if the object's values
    are the rows.

    Raises:
        InputError: There are no rows, or several lists that could hold them.
    """
    lists = outline.lists
    if ROWS in fields:
        if fields[ROWS] in lists:
            return fields[ROWS]
        raise InputError(
            f"{path}: no list of objects under {fields[ROWS]!r}, which --fields.rows names; "
            f"keys are {', '.join(outline.keys)}."
        )
    if len(lists) > 1:  # those whose rows have a text
        lists = {key: has_text for key, has_text in lists.items() if has_text}
    if len(lists) == 1:
        return next(iter(lists))
    if outline.keys and outline.only_objects:
        return None
    raise InputError(
        f"{path}: one object with the keys {', '.join(outline.keys)[:200]}, no {_text_of(fields)!r} and "
        f"{len(lists) or 'no'} lists of objects; name the key that holds the rows with --fields.rows, or that of a "
        "text with --fields.text."
    )


def is_row(fields: Mapping[str, str], outline: Outline) -> bool:
    """Whether an object is itself a row."""
    return ROWS not in fields and _text_of(fields, outline.keys) in outline.keys


def holds_table(fields: Mapping[str, str], outline: Outline) -> bool:
    """Whether an object is a table by columns, whose rows are lists, see `json_columns`."""
    return ROWS not in fields and {"columns", "data"} <= set(outline.keys) - outline.lists.keys()


def _text_of(fields: Mapping[str, str], keys: Iterable[str] = ()) -> str:
    """The key of a row's text, of a row with some keys."""
    return names_found(fields, keys).get("text", "text")


def _rows_of_object(
    path: Path, fields: Mapping[str, str], data: bytes, whole: Mapping[str, msgspec.Raw]
) -> Sequence[Any]:
    """The rows that one object holds, or the object itself, which is a row."""
    if ROWS not in fields and holds_columns(whole, fields):
        return rows_of_columns(path, whole, fields)
    found = {key: items for key, value in whole.items() if (items := _objects(value))}
    with_text = {key: has_text(items[0], fields) for key, items in found.items()}
    outline = Outline(list(whole), with_text, all(bytes(v).lstrip()[:1] == b"{" for v in whole.values()))
    if is_row(fields, outline):
        return [data]
    key = rows_under(path, fields, outline)
    return list(whole.values()) if key is None else found[key]


def has_text(raw: bytes | msgspec.Raw, fields: Mapping[str, str]) -> bool:
    """Whether a JSON value is an object with a text."""
    keys = keys_of([bytes(raw)])
    return _text_of(fields, keys) in keys


def _objects(value: msgspec.Raw) -> list[msgspec.Raw]:
    """The objects of a list; nothing if it is no list of objects."""
    if bytes(value)[:1] != b"[":
        return []
    found = msgspec.json.decode(value, type=list[msgspec.Raw])
    return found if all(bytes(item)[:1] == b"{" for item in found) else []


def _items(path: Path, text: str) -> list[bytes]:
    """The values of a list, or of lists one after the other, by the slow parser that can say where it stopped."""
    found: list[bytes] = []
    at = _behind_spaces(text, 0)
    take = _take_list if text[at : at + 1] == "[" else _take_value
    try:
        while at < len(text):
            at = _behind_spaces(text, take(text, at, found))
    except json.JSONDecodeError as error:
        where = f"row {len(found) + 1} (line {error.lineno})"
        raise InputError(f"{path}, {where}: {error.msg}; the file is damaged or cut off; {MEND}") from error
    except RecursionError as error:
        raise InputError(f"{path}, row {len(found) + 1}: nested too deeply; wanted flat objects.") from error
    if take == _take_value:
        raise InputError(f"{path}: found {text.strip()[:12]!r}; wanted a list of objects, [{{...}}, ...].")
    return found


def _behind_spaces(text: str, at: int) -> int:
    while text[at : at + 1].isspace():
        at += 1
    return at


def _take_value(text: str, at: int, found: list[bytes]) -> int:
    """Append the value that begins at a place; where it ends."""
    _, end = json.JSONDecoder().raw_decode(text, at)
    found.append(text[at:end].encode(errors="surrogatepass"))
    return end


def _take_list(text: str, at: int, found: list[bytes]) -> int:
    """Append the values of the list that begins at a place; where it ends."""
    if text[at] != "[":
        raise json.JSONDecodeError("expected the end, or another list", text, at)
    at = _behind_spaces(text, at + 1)
    if text[at : at + 1] == "]":
        return at + 1
    while True:
        at = _behind_spaces(text, _take_value(text, at, found))
        if text[at : at + 1] == "]":
            return at + 1
        if text[at : at + 1] != ",":
            raise json.JSONDecodeError("expected , or ]", text, at)
        at = _behind_spaces(text, at + 1)
