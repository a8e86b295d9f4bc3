"""Files of any accepted format into rows. Whatever is wrong with a file is an error that names file, row and key."""

from __future__ import annotations

import csv
import gzip
import io
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import msgspec
import zstandard

from corpus_tools.documents import Row
from corpus_tools.errors import InputError
from corpus_tools.files.json_errors import explain_json, name_columns

FORMATS = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".txt", ".parquet")
COMPRESSIONS = (".gz", ".zst")
_BOM = b"\xef\xbb\xbf"


class Source(NamedTuple):
    """An input file and the name by which the corpus refers to it: its path below the folder given."""

    name: str
    path: Path


def _format_of(path: Path) -> str:
    suffixes = [s.lower() for s in path.suffixes[-2:]]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    return suffixes[-1] if suffixes and suffixes[-1] in FORMATS else ""


def find_sources(paths: Sequence[str | Path]) -> tuple[list[Source], list[str]]:
    """The files to read, sorted by name, and the names of files passed over because of their suffix.

    Folders are searched in depth; hidden files and folders are left out.

    Raises:
        InputError: A path does not exist, a file named outright has an unknown suffix, or nothing is left.
    """
    found: dict[Path, Source] = {}  # by its true path, so that a file given twice is read once
    passed_over: list[str] = []
    for root in map(Path, paths):
        if root.is_dir():
            for path in root.rglob("*"):
                name = path.relative_to(root)
                # A link to nothing is a file that cannot be read, not one to be passed over in silence.
                special = path.exists() and not path.is_file()
                if special or any(part.startswith(".") for part in name.parts):
                    continue
                name = Path(root.resolve().name, name) if len(paths) > 1 else name
                if _format_of(path):
                    _add(found, Source(name.as_posix(), path.absolute()))
                else:
                    passed_over.append(name.as_posix())
        elif not root.exists():
            raise InputError(f"{root} does not exist; give a folder or file of {', '.join(FORMATS)}.")
        elif not _format_of(root):
            raise InputError(
                f"{root} has an unknown suffix; wanted {', '.join(FORMATS)}, also with .gz or .zst."
            )
        else:
            _add(found, Source(root.name, root.absolute()))
    if not found:
        seen = f" ({len(passed_over)} other files there)" if passed_over else ""
        raise InputError(
            f"no input in {', '.join(map(str, paths))}{seen}; wanted files of {', '.join(FORMATS)}."
        )
    return sorted(found.values()), sorted(passed_over)


def _add(found: dict[Path, Source], source: Source) -> None:
    path = source.path.resolve()
    found[path] = min(source, found.get(path, source))


def read_bytes(path: Path) -> bytes:
    """The file as stored.

    Raises:
        InputError: The file cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path}: {error.strerror or error}; make the file readable or leave it out."
        ) from error


def _decompress(data: bytes, path: Path) -> bytes:
    suffix = path.suffix.lower()
    try:
        if suffix == ".gz":
            return gzip.decompress(data)
        if suffix == ".zst":
            return b"".join(_zstandard_frames(data))
    except (OSError, EOFError, zstandard.ZstdError) as error:
        raise InputError(
            f"{path}: the {suffix} data are damaged or cut off ({error}); fetch it again."
        ) from error
    return data


def _zstandard_frames(data: bytes) -> Iterator[bytes]:
    while data:
        frame = zstandard.ZstdDecompressor().decompressobj()
        yield frame.decompress(data)
        if not frame.eof:
            raise EOFError("the last frame has no end")
        data = frame.unused_data


def read_rows(path: Path, fields: Mapping[str, str], data: bytes | None = None) -> list[Row]:
    """The rows of a file, in file order; row n of the file is item n - 1.

    Args:
        path: File whose suffix tells the format.
        fields: Names in the file for `text`, `title`, `author`, `paragraph_id`, where they differ.
        data: The file's bytes, if already read.

    Raises:
        InputError: The file is unreadable, damaged, not UTF-8, or lacks a text somewhere.
    """
    data = _decompress(read_bytes(path) if data is None else data, path)
    kind = _format_of(path)
    if kind == ".parquet":
        return _read_parquet(path, fields, data)
    if data.startswith(_BOM):
        data = data[len(_BOM) :]
    if kind in (".csv", ".tsv"):
        return _read_csv(path, fields, data, "\t" if kind == ".tsv" else ",")
    if kind == ".txt":
        title = path.name.split(".")[0]
        return [Row(line, title) for line in _decode(path, data).splitlines(keepends=True)]
    lines = kind != ".json" or data.lstrip()[:1] == b"{"
    return _read_json(path, fields, data, lines)


def _decode(path: Path, data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path}, line {line}: byte 0x{data[error.start]:02x} is not UTF-8; save the file as UTF-8."
        ) from error


def _row_type(fields: Mapping[str, str]) -> type[Row]:
    if not fields:
        return Row
    unknown = set(fields) - set(Row.__struct_fields__)
    if unknown:
        raise InputError(
            f"unknown field {', '.join(sorted(unknown))}; fields are {', '.join(Row.__struct_fields__)}."
        )
    columns = [
        (f.name, f.type, f.default) if not f.required else (f.name, f.type)
        for f in msgspec.structs.fields(Row)
    ]
    mapped = msgspec.defstruct("Row", columns, rename=dict(fields), frozen=True, gc=False)
    return cast(type[Row], mapped)


def _read_json(path: Path, fields: Mapping[str, str], data: bytes, lines: bool) -> list[Row]:
    row_type = _row_type(fields)
    try:
        if lines:
            return msgspec.json.Decoder(row_type, strict=False).decode_lines(data)
        return msgspec.json.Decoder(list[row_type], strict=False).decode(data)  # type: ignore[valid-type]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        explain_json(path, fields, _decode(path, data), lines)
        raise InputError(f"{path}: {error}; wanted JSON objects with a text each.") from error


def _read_csv(path: Path, fields: Mapping[str, str], data: bytes, delimiter: str) -> list[Row]:
    csv.field_size_limit(sys.maxsize)
    records = csv.reader(io.StringIO(_decode(path, data), newline=""), delimiter=delimiter, strict=True)
    rows: list[Row] = []
    try:
        header = next(records, [])
        columns = _columns(path, fields, [name.strip() for name in header])
        for number, record in enumerate(records, 1):
            if record:  # a blank line is no record
                if len(record) != len(header):
                    raise InputError(
                        f"{path}, row {number}: {len(record)} values for {len(header)} columns; "
                        "put quotes around values that hold the delimiter."
                    )
                rows.append(_row_of(path, number, {name: record[i] for name, i in columns.items()}))
            else:
                rows.append(Row(""))
    except csv.Error as error:
        raise InputError(f"{path}, row {len(rows) + 1}: {error}; check its quotes.") from error
    return rows


def _columns(path: Path, fields: Mapping[str, str], header: Sequence[str]) -> dict[str, int]:
    _row_type(fields)
    names = {name: fields.get(name, name) for name in Row.__struct_fields__}
    if names["text"] not in header:
        raise InputError(
            f"{path}: no column {names['text']!r} among {name_columns(header)}; name the right one with --fields.text."
        )
    return {name: header.index(column) for name, column in names.items() if column in header}


def _row_of(path: Path, number: int, values: dict[str, Any]) -> Row:
    identifier = values.get("paragraph_id")
    try:
        values["paragraph_id"] = None if identifier in (None, "") else int(identifier)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{path}, row {number}: paragraph_id is {identifier!r:.60}; wanted a number."
        ) from error
    if not isinstance(values["text"], str):
        raise InputError(f"{path}, row {number}: the text is {values['text']!r:.60}; wanted text.")
    return Row(**values)


def _read_parquet(path: Path, fields: Mapping[str, str], data: bytes) -> list[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        columns = _columns(path, fields, file.schema_arrow.names)
        names = [file.schema_arrow.names[i] for i in columns.values()]
        values = file.read(columns=names).select(names).rename_columns(list(columns)).to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a readable Parquet file ({error}); write it again.") from error
    return [_row_of(path, number, value) for number, value in enumerate(values, 1)]
