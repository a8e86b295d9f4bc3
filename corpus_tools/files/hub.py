"""Data sets of the Hugging Face Hub as input: streamed into files of the work folder, which are then read as any."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from corpus_tools.documents import Row
from corpus_tools.errors import InputError
from corpus_tools.files.sources import Source

_FORM = re.compile(
    r"hf:/{1,2}(?P<name>(?:/{0,2}|[A-Za-z]:/)[^/:@][^:@]*)(?:@(?P<revision>[^:]+))?(?::(?P<split>[\w.\-]+))?"
)
_REVISION = re.compile(r"@([0-9a-f]{40})/")
_FILE_BYTES = 32 << 20  # of a file; it grows on until a title ends, to three times as much at most


class Address(NamedTuple):
    """hf://OWNER/NAME[@REVISION][:SPLIT]; a folder on this machine may stand for OWNER/NAME."""

    name: str
    revision: str | None
    split: str


def is_address(source: str | Path) -> bool:
    """Whether a source is a data set of the Hub."""
    return str(source).startswith(("hf:/", "hf:\\"))


def address_of(source: str | Path) -> Address:
    r"""The parts of an address; the split is `train` if none is named.

    >>> address_of("hf://owner/name:test")
    Address(name='owner/name', revision=None, split='test')
    >>> address_of("hf://owner/name@main")
    Address(name='owner/name', revision='main', split='train')
    >>> address_of(r"hf:\owner\name:test").name, address_of(r"hf://C:\data\set").name, address_of(r"hf://\\host\x").name
    ('owner/name', 'C:/data/set', '//host/x')
    """
    # A folder of Windows; and as a path, an address has lost a slash there and got backslashes.
    found = _FORM.fullmatch(str(source).replace("\\", "/"))
    if found is None:
        raise InputError(f"{source} is no data set; give hf://OWNER/NAME, perhaps with @REVISION and :SPLIT.")
    return Address(found["name"], found["revision"], found["split"] or "train")


def fetch(source: str | Path, folder: Path, fields: Mapping[str, str]) -> tuple[list[Source], str]:
    """Write a data set's rows below a folder, those of one title together; the files and the revision.

    What is read is streamed, or taken from the cache of the library where HF_HUB_OFFLINE is set. Private and gated
    data sets are read with the token that `hf auth login` has stored.

    Raises:
        InputError: The data set cannot be had, or has no text.
    """
    address = address_of(source)
    rows, columns, revision = _open(address)
    names = [fields.get(name, name) for name in Row.__struct_fields__]
    if names[0] not in columns:
        raise InputError(
            f"{source}: no column {names[0]!r} among {', '.join(columns)}; name the right one with --fields.text."
        )
    wanted = [name for name in names if name in columns]
    folder.mkdir(parents=True, exist_ok=True)
    label = f"hf://{address.name}@{revision[:12]}" if revision else f"hf://{address.name}"
    stem = re.sub(r"\W+", "-", f"{address.name}-{address.split}")
    title = fields.get("title", "title")
    sources = []
    try:
        records = ({name: row[name] for name in wanted} for row in rows)
        for number, lines in enumerate(_files(records, title)):
            path = folder / f"{stem}-{number:05d}.jsonl"
            path.write_bytes(lines)
            sources.append(Source(f"{label}/{address.split}-{number:05d}.jsonl", path.absolute()))
    except OSError as error:
        raise InputError(f"{source}: {error}; try again, what is cached is kept.") from error
    if not sources:
        raise InputError(f"{source}: the split {address.split} has no rows; name another one behind a colon.")
    return sources, revision


def _open(address: Address) -> tuple[Iterable[Mapping[str, Any]], list[str], str]:
    """The rows of a data set, the names of its columns, and its revision ("" for a folder)."""
    import datasets

    offline = os.environ.get("HF_HUB_OFFLINE") in ("1", "true") and not Path(address.name).is_dir()
    try:
        builder = datasets.load_dataset_builder(address.name, revision=address.revision)
        found = datasets.load_dataset(
            address.name, revision=address.revision, split=address.split, streaming=not offline
        )
        if found.column_names is None:
            found = found._resolve_features()
    except Exception as error:  # the library's own, the Hub's and the network's: dozens of unrelated classes
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"hf://{address.name}: {reason or type(error).__name__}; check name and split, and for a private or gated "
            "data set log in with: hf auth login."
        ) from error
    files = repr(builder.config.data_files)
    revision = _REVISION.search(files)
    return found, list(found.column_names), revision[1] if revision else ""


def _files(records: Iterable[Mapping[str, Any]], title: str) -> Iterator[bytes]:
    """The rows as JSON lines, parted into files where a title ends."""
    lines: list[bytes] = []
    size, before = 0, None
    for record in records:
        now = record.get(title)
        if size > 3 * _FILE_BYTES or (size > _FILE_BYTES and (now != before or now is None)):
            yield b"".join(lines)
            lines, size = [], 0
        lines.append(msgspec.json.encode(record) + b"\n")
        size += len(lines[-1])
        before = now
    if lines:
        yield b"".join(lines)
