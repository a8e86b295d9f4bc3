"""Where a stage starts: whose weights are quantised, and which updates of earlier stages stay beside them.

`fit` leaves a merged 16-bit model with the adapter that was merged into it beside it, in `adapter/`. In 4 bits
such a folder means what was trained: its own base in 4 bits plus that adapter. What quantising the merged
weights a second time loses is measured in tests/benchmarks/hand_off.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from taigi_lightning.errors import InputError
from taigi_lightning.model.lineage import (
    QUANTIZATION,
    adapter_hash,
    base_identity,
    check_adapter_bytes,
    check_identity,
    read_lineage,
)

HandOff = Literal["stack", "continue", "merge"]
Quantization = Literal["nf4", "none"]
BESIDE = "adapter"  # the folder in a merged model's own that holds what was merged into it
STACKED = ", with adapter "  # in an identity's quantisation: what stays beside the 4-bit weights


@dataclass(frozen=True)
class Start:
    """What a model is made of before a new adapter, or the given one, is attached.

    Args:
        base: the folder or Hub name that an adapter is trained on and merged into.
        weights: the one whose weights are loaded.
        updates: adapters that stay frozen beside those, oldest first.
        identity: as `base_identity`, which tells this start from any other.
    """

    base: str
    weights: str
    updates: tuple[Path, ...]
    identity: Mapping[str, str]


def find_start(
    base: str,
    quantization: Quantization,
    hand_off: HandOff = "stack",
    adapter: str | Path | None = None,
    *,
    any_quantization: bool = False,
) -> Start:
    """Find what `base` means in this quantisation, for a new adapter or for a saved one.

    A saved adapter belongs to one function: its lineage.json decides, whatever `hand_off` says. Without a
    lineage it goes onto the base's own weights, as PEFT would put it.

    Args:
        base: a model's folder or Hub name.
        quantization: how it is loaded; in 16 bits a merged model's own weights are what was trained.
        hand_off: whether a merged folder keeps its update beside 4-bit weights, or is quantised as merged.
        adapter: a saved adapter's folder.
        any_quantization: let an adapter be used on a base in other bits than it was trained on.

    Raises:
        InputError: the adapter was trained on another base or quantisation, or what a merged folder was made
            from is not there or has changed, the adapter's own bytes among it.
    """
    lineage = read_lineage(Path(adapter)) if adapter is not None else None
    if lineage is None:
        beside = kept_beside(base, quantization) if adapter is None and hand_off != "merge" else None
        return _plain(base, quantization) if beside is None else _stacked(base, quantization, beside)
    check_adapter_bytes(Path(str(adapter)), lineage)
    wanted: Mapping[str, str] = lineage["base"]
    earlier = _lineage_beside(base)
    if earlier is not None and _same_weights(wanted, earlier["base"]):  # it goes on from the adapter there
        parent = _parent(base, earlier)
        return find_start(parent, quantization, adapter=adapter, any_quantization=any_quantization)
    beside = kept_beside(base, quantization) if STACKED in wanted["quantization"] else None
    start = _plain(base, quantization) if beside is None else _stacked(base, quantization, beside)
    if any_quantization:
        wanted = {**wanted, "quantization": start.identity["quantization"]}
    check_identity(start.identity, wanted)
    return start


def kept_beside(base: str, quantization: Quantization) -> Path | None:
    """The adapter beside a merged model, if it was trained on 4-bit weights that are to be loaded again.

    None for anything else: a model that no adapter lies beside, one merged before lineages were written, an
    adapter trained in 16 bits, or a base to be loaded in 16 bits.

    Raises:
        InputError: the adapter there is not the one that was merged.
    """
    lineage = _lineage_beside(base)
    if lineage is None or quantization != "nf4":
        return None
    if not str(lineage["base"].get("quantization", "")).startswith(QUANTIZATION["nf4"]):
        return None
    beside, merged = Path(base) / BESIDE, read_lineage(Path(base))
    if merged is None:
        return None
    recorded = merged.get("adapter")
    same = merged == lineage if recorded is None else recorded == adapter_hash(beside)
    if not same:
        raise InputError(
            f"The adapter in {beside} is not the one that was merged into {base}, so what the folder holds is "
            f"not one model. Merge again with `python -m taigi_lightning merge --adapter {beside} "
            f"--output_dir {base}`, or set --model.hand_off merge to use the merged weights alone."
        )
    return beside


def continued(base: str, quantization: Quantization) -> tuple[str, str] | None:
    """The base and the adapter with which training goes on where `base` was merged; None if it was not."""
    beside = kept_beside(base, quantization)
    return None if beside is None else (_parent(base, read_lineage(beside) or {}), str(beside))


def _plain(base: str, quantization: Quantization) -> Start:
    return Start(base, base, (), base_identity(base, quantization))


def _stacked(base: str, quantization: Quantization, beside: Path) -> Start:
    """A merged folder in 4 bits: its own base's start, and its adapter beside."""
    earlier = find_start(_parent(base, read_lineage(beside) or {}), quantization, adapter=beside)
    identity = base_identity(base, quantization)
    identity["quantization"] += f"{STACKED}{adapter_hash(beside)[:8]} beside it"
    return Start(base, earlier.weights, (*earlier.updates, beside), identity)


def _lineage_beside(base: str) -> dict[str, Any] | None:
    return read_lineage(Path(base) / BESIDE) if Path(base).is_dir() else None


def _same_weights(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    keys = ["config", "weights", *(["tensors"] if "tensors" in one and "tensors" in other else [])]
    return all(one.get(key) == other.get(key) for key in keys)


def _parent(base: str, lineage: Mapping[str, Any]) -> str:
    """The base that a merged model's adapter was trained on, which must still be here.

    Raises:
        InputError: it is neither a folder here nor a model that the Hub gives.
    """
    parent = str(lineage["base"]["name"])
    try:
        base_identity(parent)
    except InputError as error:
        raise InputError(
            f"{base} was trained as an adapter on the 4-bit weights of {parent}, which a stage that goes on "
            f"from it needs again: {error} Put that base back where it was, or set --model.hand_off merge to "
            "quantise the merged weights a second time."
        ) from error
    return parent
