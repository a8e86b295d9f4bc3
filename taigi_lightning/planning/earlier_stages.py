"""What earlier stages leave on the card beside a merged model's 4-bit base: their adapters, which no longer train."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from taigi_lightning.planning import memory
from taigi_lightning.planning.memory import PROJECTIONS, Shape
from taigi_lightning.planning.needs import Part
from taigi_lightning.planning.run_files import ADAPTER_CONFIG, read_json

STACKED = ", with adapter "  # in the quantisation that a lineage tells, as `model/hand_off.py` writes it


def adapter_beside(base: str, quantization: str) -> Path | None:
    """The adapter that stays beside a merged model's 4-bit base (`model/hand_off.py`), as its files say."""
    folder = Path(base) / "adapter"
    files = (folder / "lineage.json", folder / "adapter_config.json", Path(base) / "lineage.json")
    if quantization != "nf4" or not all(file.is_file() for file in files):
        return None
    return folder if _trained_in(folder).startswith("nf4") else None


def ranks_beside(base: str, model: dict[str, Any]) -> tuple[int, ...]:
    """The ranks of the adapters that stay frozen beside a base's 4-bit weights, the last stage's first.

    Args:
        model: the config's section: its adapter's lineage decides, or else its `hand_off`.
    """
    beside = adapter_beside(base, model.get("quantization") or "nf4")
    adapter = Path(model["adapter"]) if model.get("adapter") else None
    if adapter is not None and (adapter / "lineage.json").is_file():
        stacked = STACKED in _trained_in(adapter)
    else:
        stacked = adapter is None and model.get("hand_off") not in ("merge", "continue")
    if beside is None or not stacked:
        return ()
    config = json.loads((beside / "adapter_config.json").read_text(encoding="utf-8"))
    parent = json.loads((beside / "lineage.json").read_text(encoding="utf-8"))["base"].get("name", "")
    return (int(config["r"]), *ranks_beside(parent, {**model, "adapter": str(beside)}))


def _trained_in(adapter: Path) -> str:
    """The quantisation of the base that an adapter was trained on, in words."""
    lineage = json.loads((adapter / "lineage.json").read_text(encoding="utf-8"))
    return str(lineage["base"].get("quantization", ""))


def beyond_lora(adapter: str | None) -> str | None:
    """What of a saved adapter's configuration no layer that is written out computes; None of plain LoRA."""
    settings = {} if adapter is None else read_json(Path(adapter) / ADAPTER_CONFIG) or {}
    beyond = ("use_dora", "lora_bias", "alora_invocation_tokens", "arrow_config")
    found = next((name for name in beyond if settings.get(name)), None)
    return None if found is None else f"{found} makes the adapter {adapter} more than plain LoRA"


def frozen_part(ranks: Sequence[int], shape: Shape, element_size: int = 2) -> Part:
    """Bytes of those adapters, in the dtype that is computed in."""
    size = sum(memory.adapter_sizes(shape, sum(ranks), PROJECTIONS))
    said = " and ".join(map(str, ranks))
    return Part("earlier stages' adapters", element_size * size, f"r {said}, frozen, {8 * element_size} bits")
