"""Which base and which run something came from, so that a wrong or changed one is refused."""

import hashlib
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

from taigi_lightning.atomic_write import write_json
from taigi_lightning.errors import InputError
from taigi_lightning.model.safetensors_files import TensorEntry, base_folder, read_header, weight_files
from taigi_lightning.model.text_model import without_numbers
from taigi_lightning.planning.run_files import LINEAGE, lineage_file
from taigi_lightning.windows import portable

ADAPTER_WEIGHTS = "adapter_model.safetensors"
QUANTIZATION = {"none": "none", "nf4": "nf4, double quantisation, blocks of 64"}
COMPARED = ("config", "weights", "tensors", "quantization")
SAMPLES = 32  # pieces read of each file, besides its header; of each kind of tensor as many
PIECE = 4096  # bytes


def base_identity(base: str | Path, quantization: Literal["nf4", "none"] = "none") -> dict[str, str]:
    """Return what tells one base from another, as plain text values.

    Keys: `name` as given; `config`, the SHA-256 of config.json; `weights`, a SHA-256 over each safetensors
    file's name, size, header and 32 pieces of 4 KiB spread evenly over it (a second or less for 26 GB: a
    retrained or rounded model differs in nearly every byte); `tensors`, one over a piece of each tensor, or of 32 of
    those that are called alike in all layers and experts (a merge may change two percent of a mixture of experts, which
    such pieces of files all miss); `quantization` in words. A base without weights, to be trained from scratch, has
    `none` for both.

    Raises:
        InputError: there is no such base, or its weights are incomplete, damaged or pickled.
    """
    folder = base_folder(base)
    config = folder / "config.json"
    if not config.is_file():
        raise InputError(f"{folder} holds no config.json; wanted a model in the transformers format.")
    bare = not any(folder.glob("*.safetensors*")) and not any(folder.glob("*.bin"))
    files = [] if bare else weight_files(folder)
    return {
        "name": portable(base),
        "config": hashlib.sha256(config.read_bytes()).hexdigest(),
        "weights": "none" if bare else _hash_files(files),
        "tensors": "none" if bare else _hash_tensors(files),
        "quantization": QUANTIZATION[quantization],
    }


def check_identity(found: Mapping[str, str], wanted: Mapping[str, str]) -> None:
    """Refuse a base that is not the wanted one. The name is not compared: a folder may be moved.

    Args:
        found: identity of the base at hand.
        wanted: identity recorded when the adapter or checkpoint was made; keys it lacks are not compared.

    Raises:
        InputError: config, weights or quantisation differ; the message holds both identities in words.
    """
    keys = [key for key in COMPARED if key in wanted and found.get(key) != wanted[key]]
    if keys:
        what = dict.fromkeys("weights" if key == "tensors" else key for key in keys)
        raise InputError(
            f"The base is not the one this was trained on: its {' and '.join(what)} differ. Found "
            f"{describe(found)}; wanted {describe(wanted)}. Give the base that was used then, or train again."
        )


def describe(identity: Mapping[str, str]) -> str:
    """Say an identity in words.

    >>> describe({"name": "models/cpt_model", "weights": "cd" * 32, "quantization": "none"})
    'models/cpt_model (weights cdcdcdcd, quantization none)'
    >>> describe({"name": "models/cpt_model", "weights": "cd" * 32, "tensors": "ab" * 32})
    'models/cpt_model (weights cdcdcdcd-abababab)'
    """
    parts = {
        key: identity[key] if key == "quantization" else identity[key][:8]
        for key in COMPARED
        if key in identity
    }
    if (tensors := parts.pop("tensors", "none")) != "none":
        parts["weights"] += f"-{tensors}"
    words = (f"{key} {value}" for key, value in parts.items())
    return f"{identity.get('name', 'an unnamed base')} ({', '.join(words)})"


def write_lineage(
    folder: Path,
    *,
    base: Mapping[str, str],
    run_config: str | None = None,
    data: str | Path | Sequence[str] | None = None,
    continues: str | Path | None = None,
    checkpoint: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write `lineage.json` beside an adapter or a model, and return what it says.

    Args:
        folder: the adapter's or model's folder.
        base: `base_identity` of what the run started from.
        run_config: the run's resolved config as text; its SHA-256 is kept, so no key in it can leak.
        data: a corpus folder (its manifest.json is hashed) or a file (hashed itself), or several of them.
        continues: the adapter's folder that training went on from.
        checkpoint: which weights of the run these are: `which`, last or best, `step`, and of the best one `path`, the
            `monitor` and its `score`.

    The lineage of the base, if its folder holds one, is nested under `base`: an SFT run's lineage includes
    the CPT run's. Keys: `base` {identity, `lineage`}, `run` {`config`, `checkpoint`}, `data` {`path`, `sha256`}, of
    several sources each so under `sources`, where an adapter was trained further, `continues`, that adapter's own
    lineage, and where an adapter's weights are in the folder, `adapter_sha256`, of all their bytes.
    """
    lineage: dict[str, Any] = {"base": {**base, "lineage": read_lineage(Path(base["name"]))}}
    if continues is not None:
        lineage["continues"] = read_lineage(Path(continues))
    lineage["run"] = {"config": hashlib.sha256(run_config.encode()).hexdigest() if run_config else None}
    if checkpoint is not None:
        lineage["run"]["checkpoint"] = dict(checkpoint)
    lineage["data"] = (
        describe_sources([str(data)] if isinstance(data, str | Path) else data) if data else None
    )
    if (folder / ADAPTER_WEIGHTS).is_file():
        lineage["adapter_sha256"] = _sha256(folder / ADAPTER_WEIGHTS)
    write_json(folder / LINEAGE, lineage)
    return lineage


def read_lineage(folder: Path) -> dict[str, Any] | None:
    """Return what `lineage.json` in a folder says, or None where there is none.

    Raises:
        InputError: the file is there and cannot be read.
    """
    lineage = lineage_file(folder)
    if lineage is not None and "weights" not in lineage["base"]:
        raise InputError(f"{folder / LINEAGE} does not tell its base's weights. Write it again with its run.")
    return lineage


def check_lineage(folder: Path, base: str | Path, quantization: Literal["nf4", "none"] | None = None) -> None:
    """Refuse an adapter whose weights changed, or on another base than its lineage names; without one, do nothing.

    Args:
        folder: the adapter's folder.
        base: the base it is to be used on.
        quantization: how the base is loaded now; None, for a merge, leaves that out of the comparison.

    Raises:
        InputError: the base is another one, or either has changed since.
    """
    lineage = read_lineage(folder)
    if lineage is None:
        return
    check_adapter_bytes(folder, lineage)
    found, wanted = base_identity(base, quantization or "none"), lineage["base"]
    if quantization is None:
        found, wanted = ({**identity, "quantization": "any"} for identity in (found, wanted))
    check_identity(found, wanted)


def check_adapter_bytes(folder: Path, lineage: Mapping[str, Any]) -> None:
    """Refuse an adapter whose weights are not those that its run wrote; a lineage of an earlier version says nothing.

    Raises:
        InputError: a byte differs.
    """
    weights = folder / ADAPTER_WEIGHTS
    wanted = lineage.get("adapter_sha256")
    if wanted is not None and weights.is_file() and _sha256(weights) != wanted:
        raise InputError(
            f"{weights} is damaged: its bytes are not those that its run wrote. Copy it again, or let the run write it "
            f"again with `fit --ckpt_path last`. If you changed it yourself, take adapter_sha256 out of "
            f"{folder / LINEAGE}."
        )


def adapter_hash(adapter: Path) -> str:
    """What tells one adapter's weights from another's, as `base_identity` does it with a base's."""
    return _hash_files([adapter / ADAPTER_WEIGHTS])


def _hash_files(paths: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            header = 8 + int.from_bytes(file.read(8), "little")
            file.seek(0)
            digest.update(file.read(min(header, size)))
            for number in range(SAMPLES):
                file.seek(header + max(0, size - header - PIECE) * number // (SAMPLES - 1))
                digest.update(file.read(PIECE))
    return digest.hexdigest()


def _hash_tensors(files: Sequence[Path]) -> str:
    alike: dict[str, list[tuple[Path, TensorEntry]]] = {}
    for path in files:
        for name, entry in read_header(path).items():
            alike.setdefault(without_numbers(name), []).append((path, entry))
    chosen = [one for found in alike.values() for one in found[:: -(-len(found) // SAMPLES)]]
    digest = hashlib.sha256()
    for path, entries in groupby(
        sorted(chosen, key=lambda one: (one[0], one[1].start)), key=lambda one: one[0]
    ):
        with path.open("rb") as file:
            for _, entry in entries:
                file.seek(max(entry.start, (entry.start + entry.end - PIECE) // 2))
                digest.update(f"{entry.name}\n".encode() + file.read(min(PIECE, entry.end - entry.start)))
    return digest.hexdigest()


def describe_sources(sources: Sequence[str]) -> dict[str, Any]:
    """Name the data of a run: one source as `describe_data` does, several each so under `sources`."""
    described = [describe_data(Path(source)) for source in sources]
    if len(described) == 1:
        return dict(described[0])
    return {"path": ", ".join(map(portable, sources)), "sources": described}


def describe_data(path: Path) -> dict[str, str]:
    """Name the data of a run: a corpus folder by its manifest, a file by its bytes.

    Raises:
        InputError: the folder has no manifest.json, or there is no such file.
    """
    file = path / "manifest.json" if path.is_dir() else path
    if not file.is_file():
        raise InputError(f"{path} holds no manifest.json, so its corpus cannot be named. Clean it again.")
    return {"path": portable(path), "sha256": _sha256(file)}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
