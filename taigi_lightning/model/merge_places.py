"""Where in a base's files an adapter's updates belong; asked before training, and again at the merge."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any

from torch import nn

from taigi_lightning.errors import InputError
from taigi_lightning.model.safetensors_files import base_folder
from taigi_lightning.model.text_model import (
    FLOATS,
    StoredWeight,
    common_prefix,
    key_mapping,
    skeleton,
    stored_entries,
    stored_weights_of,
)


def find_places(base: str | Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, StoredWeight]:
    """The stored weight to which each update is to be added.

    Args:
        base: folder or hub name.
        shapes: [out, in] of each update, by the weight's name in the text model or in the model that wraps it.

    Raises:
        InputError: an update has no place: the base holds no such weight, of another shape, not as plain numbers, or
            not for itself alone.
    """
    model = skeleton(base)
    entries = stored_entries(base_folder(base))
    stored = stored_weights_of(model, entries, key_mapping(model, entries))
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    tied = head is not None and head.weight is embeddings.weight
    head_name = next((f"{name}.weight" for name, module in model.named_modules() if module is head), None)
    places = {}
    for name, inner in text_names(shapes, stored.keys()).items():
        place, shape = stored.get(inner), shapes[name]
        found = None
        if tied and name == head_name:
            found = "has an output layer tied to the embeddings"
        elif place is None:
            found = f"has no {name}"
        elif place.rebuilt:
            found = f"makes it of {place.entry.name} as {list(place.entry.shape)}"
        elif place.entry.dtype not in FLOATS:
            found = f"holds {place.entry.name} as {place.entry.dtype}, not as 16- or 32-bit numbers"
        elif place.entry.shape != (shape[::-1] if place.transposed else shape):
            found = f"holds {place.entry.name} as {list(place.entry.shape)}"
        if place is None or found is not None:
            raise InputError(
                f"LoRA changes {name} as {list(shape)}, but the base {base} {found}, so it could not be merged. Give "
                "the base that the adapter was trained on; to train what cannot be merged, set --export.merge false."
            )
        places[name] = place
    return places


def check_mergeable(base: str | Path, targets: Collection[str] | None) -> None:
    """Refuse a base whose files hold a projection that LoRA would change otherwise than as a matrix of its own.

    Asked before the weights load, of all linear projections or of those that are called as one of `targets`.

    Raises:
        InputError: as for `find_places`.
    """
    from taigi_lightning.model.linear_targets import linear_projections  # PEFT takes seconds

    shapes = {}
    for name, module in linear_projections(skeleton(base)).items():
        if targets is None or any(name == target or name.endswith(f".{target}") for target in targets):
            shape: tuple[int, ...] = tuple(module.weight.shape)  # type: ignore[arg-type]
            # Conv1D holds [in, out].
            shapes[f"{name}.weight"] = shape if isinstance(module, nn.Linear) else shape[::-1]
    find_places(base, shapes)


def quantised_weights(base: str | Path) -> set[str]:
    """Names in a base's files of the weights that 4-bit training quantises: the linear layers' of its text model."""
    from taigi_lightning.model.linear_targets import linear_projections  # PEFT takes seconds

    model = skeleton(base)
    entries = stored_entries(base_folder(base))
    stored = stored_weights_of(model, entries, key_mapping(model, entries))
    return {
        stored[f"{name}.weight"].entry.name
        for name in linear_projections(model)
        if f"{name}.weight" in stored
    }


def text_names(names: Collection[str], known: Collection[str]) -> dict[str, str]:
    """Names of weights as the text model has them, for names that may be those of a model around it.

    >>> text_names(["model.language_model.layers.0.q.weight"], ["model.layers.0.q.weight", "model.norm.weight"])
    {'model.language_model.layers.0.q.weight': 'model.layers.0.q.weight'}
    """
    if all(name in known for name in names):
        return {name: name for name in names}
    layered = {name: before for name in names if (before := _before_layers(name)) is not None}
    shared = takewhile(lambda parts: len(set(parts)) == 1, zip(*layered.values(), strict=False))
    outer = "".join(f"{parts[0]}." for parts in shared)
    inner = common_prefix(known, [name.removeprefix(outer) for name in layered]) or ""
    return {name: inner + name.removeprefix(outer) if name.startswith(outer) else name for name in names}


def _before_layers(name: str) -> list[str] | None:
    """The parts of a name before its list of layers; None where there is no such list.

    >>> _before_layers("model.language_model.layers.0.q.weight"), _before_layers("transformer.h.0.attn.weight")
    (['model', 'language_model'], ['transformer'])
    """
    parts = name.split(".")
    first = next((place for place, part in enumerate(parts) if part.isdigit()), None)
    return None if first is None else parts[: max(0, first - 1)]


def adapted_shapes(model: Any) -> dict[str, tuple[int, int]]:
    """[out, in] of each weight of a text model that LoRA adapts, by name."""
    return {
        f"{name}.weight": (
            next(iter(module.lora_B.values())).weight.shape[0],
            next(iter(module.lora_A.values())).weight.shape[1],
        )
        for name, module in model.named_modules()
        if hasattr(module, "lora_A") and len(module.lora_A)
    }
