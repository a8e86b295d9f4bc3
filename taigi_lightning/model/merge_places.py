"""Where in a base's files an adapter's updates belong; asked before training, and again at the merge."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

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
    places = {}
    for name, inner in text_names(shapes, stored.keys()).items():
        place, shape = stored.get(inner), shapes[name]
        found = None
        if place is None:
            found = f"has no {name}"
        elif tied and model.get_submodule(inner.rpartition(".")[0]) is head:
            found = f"ties its output layer {name} to the embeddings"
        elif place.rebuilt:
            found = f"makes it of {place.entry.name} as {list(place.entry.shape)}"
        elif place.entry.dtype not in FLOATS:
            found = f"holds {place.entry.name} as {place.entry.dtype}, not as 16- or 32-bit numbers"
        elif place.entry.shape != (shape[::-1] if place.transposed else shape):
            found = f"holds {place.entry.name} as {list(place.entry.shape)}"
        if place is None or found is not None:
            raise InputError(
                f"The adapter changes {name} as {list(shape)}, but the base {base} {found}. Give the base that it was "
                "trained on; an output layer tied to the embeddings cannot be merged. To train what cannot be merged, "
                "set --export.merge false."
            )
        places[name] = place
    return places


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
    inner = common_prefix(known, [_from_layers(name) for name in names])
    return {name: (inner or "") + _from_layers(name) for name in names}


def _from_layers(name: str) -> str:
    """A name from its list of layers on.

    >>> _from_layers("model.language_model.layers.0.q.weight"), _from_layers("transformer.h.0.attn.weight")
    ('layers.0.q.weight', 'h.0.attn.weight')
    """
    parts = name.split(".")
    first = next((place for place, part in enumerate(parts) if part.isdigit()), 1)
    return ".".join(parts[max(0, first - 1) :])


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
