"""4-bit weights kept on disk as they were packed once, so that the next start neither reads 16 bits nor packs them.

An entry is a folder of a cache: safetensors files, one for each layer, and a list of what they were packed from and of
their digests. It is taken only if both are right; else it is passed over, with a warning, and made anew. Entries
may be removed at any time.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
import warnings
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from taigi_lightning.atomic_write import PARTIAL, write_json
from taigi_lightning.model.lineage import base_identity
from taigi_lightning.model.safetensors_files import INDEX

RECORD = "packed.json"
ENTRIES = 3  # of them the ones used last are kept
HEADROOM = 2**30  # bytes of the disk that stay free
ASIDE = re.compile(rf"-[0-9a-f]{{16}}\.\d+{re.escape(PARTIAL)}$")  # how an unfinished entry is called
ABANDONED = 3600  # seconds without a change after which an unfinished entry is nobody's
THREADS = 4


def origin(base: str, compute_dtype: torch.dtype, device: torch.device) -> dict[str, str]:
    """What packed weights depend on: the base's bytes, the 4-bit format, the libraries that make and name them.

    Raises:
        InputError: the base is not there.
    """
    libraries = {name: version(name) for name in ("bitsandbytes", "transformers")}
    place = {"dtype": str(compute_dtype), "packed_on": device.type, "format": "1"}
    return base_identity(base, "nf4") | libraries | place


def find_entry(cache: Path, made_from: Mapping[str, str]) -> Path | None:
    """The entry of a base whose every byte is as it was written, or None."""
    entry = _entry(cache, made_from)
    if not entry.is_dir():
        return None
    if fault := _fault(entry, made_from):
        warnings.warn(
            f"The packed weights in {entry} are passed over: {fault}. They are made anew.", stacklevel=2
        )
        return None
    with suppress(OSError):  # somebody else's folder
        os.utime(entry / RECORD)  # used last
    return entry


def _fault(entry: Path, made_from: Mapping[str, str]) -> str | None:
    """What is wrong with an entry, None if nothing is."""
    try:
        record = json.loads((entry / RECORD).read_text(encoding="utf-8"))
        files: dict[str, str] = record["sha256"]
        if _without_name(record["made_from"]) != _without_name(made_from):
            return "they were packed from another base or by other versions"
        with ThreadPoolExecutor(THREADS) as pool:
            found = dict(zip(files, pool.map(_sha256, (entry / name for name in files)), strict=True))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"they cannot be read ({error!r})"
    damaged = [name for name in files if found[name] != files[name]]
    return f"{damaged[0]} is damaged" if damaged else None


def write_entry(cache: Path, made_from: Mapping[str, str], model: Any) -> None:
    """Keep a loaded base's weights: written aside and renamed. If that fails a warning says why, and nothing is left.

    Args:
        model: the base as it was loaded, before anything was attached to it.
    """
    if int(os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or 0):
        return  # another rank of this machine writes the same
    entry = _entry(cache, made_from)
    aside = entry.with_name(f"{entry.name}.{os.getpid()}{PARTIAL}")
    try:
        cache.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(cache)
        tensors = _stored(model)
        size = sum(tensor.nbytes for tensor in tensors.values())
        if (free := shutil.disk_usage(cache).free) < size + HEADROOM:
            raise OSError(f"they take {size / 2**30:.1f} GiB, and {free / 2**30:.1f} are free there")
        aside.mkdir()
        names = _write_files(aside, tensors)
        with ThreadPoolExecutor(THREADS) as pool:
            digests = dict(zip(names, pool.map(_sha256, (aside / name for name in names)), strict=True))
        write_json(aside / RECORD, {"made_from": dict(made_from), "sha256": digests})
        shutil.rmtree(entry, ignore_errors=True)  # a damaged one
        aside.rename(entry)
        _remove_oldest(cache)
    except (OSError, SafetensorError) as error:  # as the library calls a full disk
        warnings.warn(f"The packed weights were not kept in {cache}: {error}.", stacklevel=2)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _entry(cache: Path, made_from: Mapping[str, str]) -> Path:
    digest = hashlib.sha256(json.dumps(_without_name(made_from), sort_keys=True).encode()).hexdigest()
    name = re.sub(r"[^\w.-]+", "-", Path(made_from["name"]).name)
    return cache / f"{name}-{digest[:16]}"


def _without_name(made_from: Mapping[str, str]) -> dict[str, str]:
    """A base may be moved."""
    return {key: value for key, value in made_from.items() if key != "name"}


def _stored(model: Any) -> dict[str, Tensor]:
    """Every tensor of a model by its name, those of the packed weights' scales among them; tied ones once."""
    tied = set(model.all_tied_weights_keys)
    return {name: value for name, value in model.state_dict().items() if name not in tied}


def _write_files(folder: Path, tensors: Mapping[str, Tensor]) -> list[str]:
    """Write a file for each layer, and one for the rest, with an index; at most one of them is copied at a time."""
    files: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        layer = re.search(r"\.(\d+)\.", name)
        files.setdefault(f"layer-{layer[1]}.safetensors" if layer else "rest.safetensors", {})[name] = tensor
    for file, found in files.items():
        save_file(
            {name: tensor.contiguous() for name, tensor in found.items()}, folder / file, {"format": "pt"}
        )
    where = {name: file for file, found in files.items() for name in found}
    write_json(folder / INDEX, {"metadata": {}, "weight_map": where})
    return [*files, INDEX]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _remove_abandoned(cache: Path) -> None:
    """Remove what writers left that were killed: a living one writes a file every few seconds."""
    for aside in (path for path in cache.glob(f"*{PARTIAL}") if ASIDE.search(path.name) and path.is_dir()):
        changed = max(path.stat().st_mtime for path in [aside, *aside.iterdir()])
        if time.time() - changed > ABANDONED:
            shutil.rmtree(aside, ignore_errors=True)


def _remove_oldest(cache: Path) -> None:
    records = sorted(cache.glob(f"*/{RECORD}"), key=lambda path: path.stat().st_mtime, reverse=True)
    for record in records[ENTRIES:]:
        shutil.rmtree(record.parent, ignore_errors=True)
