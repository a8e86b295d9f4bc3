"""Whether a base's files are whole and hold the weights of the text model that its config.json describes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from taigi_lightning.errors import InputError
from taigi_lightning.model.safetensors_files import TensorEntry, base_folder
from taigi_lightning.model.text_model import (
    FLOATS,
    is_wrapped,
    key_mapping,
    names_in_memory,
    skeleton,
    stored_entries,
    without_numbers,
)
from taigi_lightning.planning.base_files import check_loaded_files

if TYPE_CHECKING:
    from transformers import PreTrainedModel

AGAIN = "Download or write it again."
WHOLE = "Download or write it again, or use its text-only version."
# What tensors beside packed weights are called by those who pack them, where config.json does not say who did.
PACKED = re.compile(r"(qweight|qzeros|weight_packed|weight_scale(_inv)?|_blocks|weight\.absmax)$")


def check_weights(base: str | Path) -> dict[str, str] | None:
    """Refuse files that are damaged, or that hold other weights than the configuration wants, by their headers alone.

    Plain transformers would draw at random what is missing, and pass over what is left.

    Returns:
        what transformers must be told to find the weights, from `key_mapping`.

    Raises:
        InputError: a file is damaged, or a weight is missing, of another shape, packed, or has no place in the model;
            or transformers would load other files.
    """
    folder = base_folder(base)
    check_loaded_files(base, folder)
    entries = stored_entries(folder)  # refuses what is cut off or too long
    if packed := next((name for name in entries if PACKED.search(name)), None):
        raise InputError(
            f"{base} holds {packed}: its weights are quantised already, so they cannot be quantised to 4 bits again, "
            "and nothing could be merged into them. Give the base in 16 bits."
        )
    model = skeleton(base)
    mapping = key_mapping(model, entries) if is_wrapped(base) else None
    names = names_in_memory(model, entries, mapping)
    _check_missing(base, model, names)
    _check_stored(base, model, entries, names)
    _check_left(base, model, names)
    return mapping


def _check_missing(base: str | Path, model: PreTrainedModel, names: Mapping[str, tuple[str, bool]]) -> None:
    found, tied = {name for name, _ in names.values()}, model.all_tied_weights_keys
    found |= {tied[name] for name in found & tied.keys()}  # some writers keep one of two names, whichever
    allowed = _patterns(model, "missing")
    lacking = [
        name
        for name, _ in model.named_parameters()
        if name not in found and name not in tied and not allowed.search(name)
    ]
    if lacking:
        raise InputError(
            f"{base} holds no weights for {len(lacking)} parameters of {type(model).__name__} under any name that is "
            f"understood here, such as {lacking[0]}. {WHOLE if is_wrapped(base) else AGAIN}"
        )


def _check_stored(
    base: str | Path,
    model: PreTrainedModel,
    entries: Mapping[str, TensorEntry],
    names: Mapping[str, tuple[str, bool]],
) -> None:
    shapes = {name: tuple(value.shape) for name, value in model.named_parameters(remove_duplicate=False)}
    for key, (name, joined) in names.items():
        if name not in shapes:
            continue
        entry = entries[key]
        if not joined and entry.shape != shapes[name]:
            raise InputError(
                f"{base} holds {key} as {list(entry.shape)}, and its config.json makes it {list(shapes[name])}: one of "
                "them is of another model. Copy both from one place."
            )
        if entry.dtype not in FLOATS:
            raise InputError(
                f"{base} holds {key} as {entry.dtype}; wanted 16- or 32-bit floating point. Give the base in 16 bits."
            )


def _check_left(base: str | Path, model: PreTrainedModel, names: Mapping[str, tuple[str, bool]]) -> None:
    """Refuse a weight or bias that stands where the model has others like it, as in a layer beyond the last."""
    if getattr(model.config, "num_nextn_predict_layers", 0):
        return  # their layers for the tokens after the next follow the others, and are not read
    places = {
        without_numbers(name)
        for name, module in model.named_modules()
        if getattr(module, "weight", None) is not None
    }
    there, allowed = dict(model.state_dict()), _patterns(model, "unexpected")
    left = [
        key
        for key, (name, _) in names.items()
        if name not in there
        and name not in model.all_tied_weights_keys
        and name.rpartition(".")[2] in ("weight", "bias")
        and without_numbers(name.rpartition(".")[0]) in places
        and not allowed.search(name)
    ]
    if left:
        raise InputError(
            f"{base} holds {left[0]} and {len(left) - 1} more for which the {type(model).__name__} of its config.json "
            "has no place: one of them is of another model. Copy both from one place."
        )


def _patterns(model: PreTrainedModel, kind: str) -> re.Pattern[str]:
    """Names that a model's classes let be missing or unexpected."""
    name = f"_keys_to_ignore_on_load_{kind}"
    found = {pattern for module in model.modules() for pattern in getattr(module, name, None) or ()}
    return re.compile("|".join(f"(?:{pattern})" for pattern in sorted(found)) or r"(?!)")
