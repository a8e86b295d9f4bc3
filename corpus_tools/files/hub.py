"""Data sets of the Hugging Face Hub as input: streamed into files of the work folder, which are then read as any."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from corpus_tools.documents import Row
from corpus_tools.errors import InputError
from corpus_tools.files.field_names import names_found
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

    What is read is streamed. Where HF_HUB_OFFLINE is set it is what `hf download` or `load_dataset` left here.
    Private and gated data sets are read with the token that `hf auth login` has stored, or HF_TOKEN.

    Raises:
        InputError: The data set cannot be had, or has no text.
    """
    address = address_of(source)
    rows, columns, revision = _open(address)
    called = names_found(fields, columns)
    names = [called.get(name, name) for name in Row.__struct_fields__]
    if names[0] not in columns:
        raise InputError(
            f"{source}: no column {names[0]!r} among {', '.join(columns)}; name the right one with --fields.text."
        )
    wanted = [name for name in names if name in columns]
    folder.mkdir(parents=True, exist_ok=True)
    label = f"hf://{address.name}@{revision[:12]}" if revision else f"hf://{address.name}"
    stem = re.sub(r"\W+", "-", f"{address.name}-{address.split}")
    title = called.get("title", "title")
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

    here = Path(address.name).is_absolute() or Path(address.name).is_dir()
    if here and address.revision:
        raise InputError(
            f"hf://{address.name}@{address.revision}: a folder on this machine has no revisions; leave @ and it out."
        )
    offline = not here and os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")
    downloaded = _downloaded(address) if offline else None
    name, revision = (str(downloaded), None) if downloaded else (address.name, address.revision)
    try:
        builder = datasets.load_dataset_builder(name, revision=revision)
        streams = not offline or downloaded is not None
        found = datasets.load_dataset(name, revision=revision, split=address.split, streaming=streams)
        if found.column_names is None:
            found = found._resolve_features()
    except Exception as error:  # the library's own, the Hub's and the network's: dozens of unrelated classes
        reason = " ".join(str(error).split()).rstrip(".")[:300] or type(error).__name__
        raise InputError(f"hf://{address.name}: {reason}; {_remedy(address, reason, offline)}") from error
    commit = _REVISION.search(repr(builder.config.data_files))
    return found, list(found.column_names), downloaded.name if downloaded else commit[1] if commit else ""


def _downloaded(address: Address) -> Path | None:
    """Where `hf download` has left a data set on this machine; the folder is named for the revision."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        found = snapshot_download(
            address.name, repo_type="dataset", revision=address.revision, local_files_only=True
        )
    except (LocalEntryNotFoundError, ValueError):  # of a name that is none
        return None
    return Path(found)


def _remedy(address: Address, reason: str, offline: bool) -> str:
    """What to do where a data set could not be opened."""
    if offline:
        return (
            f"HF_HUB_OFFLINE is set and the cache has no such data set or split; fetch it first with: "
            f"hf download --repo-type dataset {address.name}"
        )
    if "gated" in reason:
        return "ask for access on its page, then log in with: hf auth login"
    near = _similar_names(address.name) if "doesn't exist" in reason and "evision" not in reason else []
    if near:
        return f"did you mean hf://{' or hf://'.join(near)}?"
    return "check name and split, and for a private or gated data set log in with: hf auth login."


def _similar_names(name: str) -> list[str]:
    """Data sets of the same owner that are called much alike; none if the Hub does not say."""
    from huggingface_hub import HfApi

    try:
        known = [found.id for found in HfApi().list_datasets(author=name.partition("/")[0], limit=500)]
    except Exception:  # a suggestion is no reason to fail otherwise than for the name
        return []
    return get_close_matches(name, known, n=2, cutoff=0.75)


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
