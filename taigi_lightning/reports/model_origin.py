"""Where a model came from, as its card tells it: bases, data, settings, licence."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from taigi_lightning.reports.markdown import code

# The weights of these bases and of everything made from them; the Hub spells licences in lower case.
LICENSES = {"Bohanlu/Taigi-Llama-2": "cc-by-nc-sa-4.0", "meta-llama/Llama-2": "llama2"}
OWN_FOLDERS = ("models", "data")  # relative paths into these look like an organisation's models
_CACHED = re.compile(r"models--([^/]+?)--([^/]+)/snapshots/")


def hub_name(base: str) -> str | None:
    """The name under which others find a base on the Hub; None of a folder on this machine.

    >>> hub_name("Bohanlu/Taigi-Llama-2-13B"), hub_name("models/cpt_model"), hub_name("/mnt/base")
    ('Bohanlu/Taigi-Llama-2-13B', None, None)
    >>> hub_name("/cache/hub/models--Bohanlu--Taigi-Llama-2-13B/snapshots/0a1b")
    'Bohanlu/Taigi-Llama-2-13B'
    """
    if found := _CACHED.search(base):
        return f"{found[1]}/{found[2]}"
    if base.split("/", maxsplit=1)[0] in OWN_FOLDERS or Path(base).exists():
        return None
    try:
        validate_repo_id(base)
    except HFValidationError:
        return None
    return base


def public_name(path: str) -> str:
    """A name or a relative path as it is; of an absolute path the last part, since the rest concerns nobody else.

    >>> public_name("/home/mei/models/base"), public_name("models/base")
    ('base', 'models/base')
    """
    return hub_name(path) or (Path(path).name if Path(path).is_absolute() else path)


def base_card(base: str) -> ModelCardData:
    """What the base's own card says, as far as it lies here: in its folder or in the Hub's cache."""
    empty = ModelCardData()
    path: Any = Path(base) / "README.md"
    if not path.is_file():
        name = hub_name(base)
        path = try_to_load_from_cache(name, "README.md") if name else None
    if not isinstance(path, (str, Path)):
        return empty
    try:
        return ModelCard.load(Path(path), ignore_metadata_errors=True).data  # type: ignore[no-any-return]
    except Exception:  # a stranger's file: whatever is wrong with it, it says nothing
        return empty


def license_of(base: str) -> dict[str, str]:
    """The licence of a base as the fields of a card, empty where nobody knows it.

    >>> license_of("Bohanlu/Taigi-Llama-2-13B"), license_of("someone/model")
    ({'license': 'cc-by-nc-sa-4.0'}, {})
    """
    for start, terms in LICENSES.items():
        if (hub_name(base) or base).startswith(start):
            return {"license": terms}
    card = base_card(base)
    fields = {name: card.get(name) for name in ("license", "license_name", "license_link")}
    return {name: value for name, value in fields.items() if isinstance(value, str)}


def first_base(lineage: Mapping[str, Any]) -> str:
    """The model that the whole chain of stages began with."""
    base = lineage["base"]
    return first_base(base["lineage"]) if base.get("lineage") else str(base.get("name"))


def stages(lineage: Mapping[str, Any]) -> list[str]:
    """Each stage of a model, the oldest first, as Markdown: its base, and the data it was trained on."""
    base, data = lineage["base"], lineage.get("data") or {}
    before = stages(base["lineage"]) if base.get("lineage") else []
    trained = "trained"
    sources = data.get("sources") or ([data] if data.get("path") else [])
    if sources:
        trained += " on " + ", ".join(
            f"{code(public_name(str(source['path'])))} (SHA-256 {code(str(source.get('sha256'))[:12])})"
            for source in sources
        )
    name = code(public_name(str(base.get("name"))))
    return [*before, f"{name} ({code(base.get('quantization', 'unquantised'))}), {trained}"]


def training_rows(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The settings that decide what a model learnt, for a reader who wants to do it again."""
    trainer, model, data = (settings.get(name) or {} for name in ("trainer", "model", "data"))
    optimizer, lora, arguments = (
        model.get("optimizer") or {},
        model.get("lora") or {},
        data.get("init_args") or {},
    )
    batch = arguments.get("batch_size")
    found = {
        "optimizer steps": trainer.get("max_steps"),
        "batch": batch and f"{batch} × {trainer.get('accumulate_grad_batches') or 1} accumulated",
        "longest sequence": arguments.get("max_length") and f"{arguments['max_length']} tokens",
        "LoRA r, alpha, dropout": lora
        and f"{lora.get('r')}, {lora.get('lora_alpha')}, {lora.get('lora_dropout')}",
        "optimizer": optimizer.get("class_path"),
        "learning rate": (optimizer.get("init_args") or {}).get("lr"),
        "learning rate schedule": model.get("lr_scheduler"),
        "base weights in training": model.get("quantization"),
        "products with them": model.get("matmul") if model.get("matmul") != "bf16" else None,
        "seed": settings.get("seed_everything"),
    }
    return [(name, str(value)) for name, value in found.items() if value is not None and value != {}]
