"""Data sets of the Hugging Face Hub by name: kept in the cache as the Parquet files that the data modules read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

from taigi_lightning.atomic_write import write_json, written_aside
from taigi_lightning.errors import InputError

ADDRESS = re.compile(
    r"hf:/{1,2}(?P<name>(?:/{0,2}|[A-Za-z]:/)[^/:@][^:@]*)(?:@(?P<revision>[^:]+))?(?::(?P<split>[\w.\-]+))?"
)
REVISION = re.compile(r"@([0-9a-f]{40})/")


class Address(NamedTuple):
    """hf://OWNER/NAME[@REVISION][:SPLIT]; a folder on this machine may stand for OWNER/NAME."""

    name: str
    revision: str | None
    split: str | None


def is_address(source: object) -> bool:
    """Whether a source is a data set of the Hub.

    >>> is_address("hf://owner/name:train"), is_address("data/AI_conv.csv")
    (True, False)
    """
    return str(source).startswith(("hf:/", "hf:\\"))


def address_of(source: object) -> Address:
    r"""The parts of an address.

    >>> address_of("hf://owner/name@main:test")
    Address(name='owner/name', revision='main', split='test')
    >>> address_of(r"hf:\owner\name:test").name, address_of(r"hf://C:\data\set:test"), address_of(r"hf://\\host\x").name
    ('owner/name', Address(name='C:/data/set', revision=None, split='test'), '//host/x')

    Raises:
        InputError: it is none.
    """
    # A folder of Windows; and as a path, an address has lost a slash there and got backslashes.
    found = ADDRESS.fullmatch(str(source).replace("\\", "/"))
    if found is None:
        raise InputError(f"{source} is no data set; give hf://OWNER/NAME, perhaps with @REVISION and :SPLIT.")
    return Address(found["name"], found["revision"], found["split"])


def hub_file(source: object) -> Path:
    """One split of a data set as a Parquet file, fetched if it is not in the cache; `train` if none is named.

    Private and gated data sets are read with the token that `hf auth login` has stored; with HF_HUB_OFFLINE set, what
    the library's cache has is used. The file's folder is called after the data set and its revision, so that the
    lineage of what is trained on it names both.

    Raises:
        InputError: the data set cannot be had.
    """
    address = address_of(source)
    split = address.split or "train"
    found, folder = _load(source, address, split)
    return _stored(found, folder / f"{split}.parquet")


def hub_folder(source: object) -> Path:
    """All splits of a data set as a corpus folder, `train` and what else it has; with a split named, that as `train`.

    Raises:
        InputError: the data set cannot be had.
    """
    address = address_of(source)
    found, folder = _load(source, address, address.split)
    splits = found if isinstance(found, dict) else {"train": found}
    folder = folder / (address.split or "all")
    for name, rows in splits.items():
        _stored(rows, folder / f"{name}-00000-of-00001.parquet")
    write_json(folder / "manifest.json", {"source": str(source), "revision": folder.parent.name})
    return folder


def _load(source: object, address: Address, split: str | None) -> tuple[Any, Path]:
    """The rows, and the folder of the cache for this revision of the data set."""
    import datasets  # heavy, and addresses are asked about before a run

    try:
        builder = datasets.load_dataset_builder(address.name, revision=address.revision)
        found = datasets.load_dataset(address.name, revision=address.revision, split=split)
    except Exception as error:  # the library's own, the Hub's and the network's: dozens of unrelated classes
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"{source}: {reason or type(error).__name__}; check name and split, and for a private or gated data set "
            "log in with: hf auth login."
        ) from error
    known = REVISION.search(repr(builder.config.data_files))
    rows = next(iter(found.values())) if isinstance(found, dict) else found
    revision = known[1][:12] if known else rows._fingerprint
    name = re.sub(r"[^\w.\-]+", "--", address.name).strip("-")
    return found, Path(datasets.config.HF_DATASETS_CACHE) / "taigi_lightning" / "hub" / f"{name}@{revision}"


def _stored(rows: Any, path: Path) -> Path:
    if not path.exists():
        with written_aside(path) as aside:
            rows.to_parquet(str(aside))
    return path
