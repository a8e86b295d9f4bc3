"""How many tokens a row may have in which each document is still computed as alone, by a base's configuration.

The self-check of a run asks with short documents. What begins at a length, it cannot see: tables of positions that
end, rotations that change, an attention that chooses among keys.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from taigi_lightning.errors import InputError
from taigi_lightning.model.text_model import skeleton, text_model_class

MAX_LENGTH = "--data.init_args.max_length"
# Rotations by the length of the longest document that passes, all others included, and from which length on.
BY_LENGTH = {"longrope": "original_max_position_embeddings", "dynamic": "max_position_embeddings"}
# Settings of attention that chooses so many keys of a row for a token, at which later ones or other documents' may win.
CHOSEN_KEYS = ("index_topk", "keep_window_size")


def check_row_length(base: str, tokens: int, option: str) -> None:
    """Refuse rows longer than a base reads, or than it computes one document like another; asked without its weights.

    Args:
        base: folder or Hub name.
        tokens: of the longest row.
        option: the setting that says how many.

    Raises:
        InputError: rows of so many tokens are too long, or there is no such base.
    """
    limits = [(most, reason) for most, reason in _limits(base, tokens) if most < tokens]
    if limits:
        most, reason = min(limits)
        raise InputError(f"{base} {reason}, and rows may have {tokens}. Set {option} {most}.")


def _limits(base: str, tokens: int) -> Iterator[tuple[int, str]]:
    """Each number of tokens from which on something is otherwise, and what."""
    config = text_model_class(base)[1]
    places = getattr(config, "max_position_embeddings", None)
    ropes = _ropes(getattr(config, "rope_parameters", None))
    for rope in ropes:
        kind = rope.get("rope_type", "")
        most = {"max_position_embeddings": places, **rope}.get(BY_LENGTH.get(kind, ""))
        if most:
            yield (
                int(most),
                f"turns all that passes by the longest document's length beyond {most} tokens ({kind})",
            )
    for name in CHOSEN_KEYS:
        most = getattr(config, name, None)
        if most and hasattr(type(config), name):  # files may hold settings that their class never reads
            yield most, f"lets a token see {most} keys that it chooses in its row ({name})"
    if config.model_type == "mpt":  # whose biases are made for so many
        yield config.max_seq_len, f"has places for {config.max_seq_len} tokens"
    if not ropes and places and places < tokens and _has_table(base, places):
        yield places, f"has places for {places} tokens"


def _ropes(found: Any) -> list[dict[str, Any]]:
    """The rotary settings of a configuration: one, one for each type of layer, or none."""
    if not isinstance(found, dict):
        return []
    inner = [value for value in found.values() if isinstance(value, dict)]
    return inner or [found]


def _has_table(base: str, places: int) -> bool:
    """Whether a text model looks its positions up in a table of so many rows, or of a few more for padding."""
    model = skeleton(base)
    tables = [*model.named_parameters(), *model.named_buffers()]
    tables += [
        (f"{name}.{kept}", value)
        for name, module in model.named_modules()
        for kept, value in vars(module).items()
        if hasattr(value, "shape")
    ]
    return any(
        ("pos" in name or "wpe" in name) and value.dim() == 2 and places <= value.shape[0] <= places + 4
        for name, value in tables
    )
