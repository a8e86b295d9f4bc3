"""The shape of a base, for a plan: read from its config.json, here or in the Hub's cache, or known; without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from taigi_lightning.errors import InputError
from taigi_lightning.planning.base_files import is_hub_name
from taigi_lightning.planning.decoder_path import COUNTED_TYPES, off_fast_path
from taigi_lightning.planning.memory import Shape


def gemma3(layers: int, hidden: int, intermediate: int, heads: int, kv_heads: int, head_size: int) -> Shape:
    """A text model of Gemma 3's: tied embeddings, norms before and after each half of a layer, and of q and k."""
    return Shape(
        layers, hidden, intermediate, heads, kv_heads, head_size, 262208,
        tied=True, head_norm=2 * head_size, norms=4, post_norms=True, large=True,
    )  # fmt: skip


KNOWN = {
    "Bohanlu/Taigi-Llama-2-13B": Shape(40, 5120, 13824, 40, 40, 128, 56064),
    "Bohanlu/Taigi-Llama-2-7B": Shape(32, 4096, 11008, 32, 32, 128, 56064),
    "meta-llama/Llama-2-7b-hf": Shape(32, 4096, 11008, 32, 32, 128, 32000),
    "meta-llama/Llama-2-13b-hf": Shape(40, 5120, 13824, 40, 40, 128, 32000),
    "meta-llama/Llama-3.1-70B": Shape(80, 8192, 28672, 64, 8, 128, 128256),
    "google/gemma-3-12b-it": gemma3(48, 3840, 15360, 16, 8, 256),
    "google/gemma-3-27b-it": gemma3(62, 5376, 21504, 32, 16, 128),
}
# Types whose config.json says all that is counted; others leave tied embeddings or a head's size to their class.
SELF_CONTAINED = ("llama", "mistral", "qwen2")


SIZES = (
    *("num_hidden_layers", "hidden_size", "intermediate_size", "vocab_size"),
    *("num_attention_heads", "num_key_value_heads", "head_dim"),
)
A_RUN_SHOWS = "A run of `fit` with --trainer.max_steps 1 shows what it takes."
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")


def read_base(base: str) -> tuple[Shape, str | None]:
    """The shape of a base and why its layers take the general path, None if they take the fast one.

    Both are read from its folder, from the Hub's cache, or known for a few.

    Raises:
        InputError: none of these has it, or its layers are not counted here.
    """
    path = Path(base) / "config.json"
    if not path.is_file() and base in KNOWN:
        return KNOWN[base], None
    if not path.is_file():
        path = _cached_config(base)
    config = _text_settings(path)
    if experts := next((name for name in EXPERTS if config.get(name)), None):
        raise InputError(
            f"{path} has {experts} {config[experts]}: a mixture of experts, whose weights are not counted here. "
            f"{A_RUN_SHOWS}"
        )
    if (kind := config.get("model_type")) not in COUNTED_TYPES:
        raise InputError(
            f"{path} is of type {kind}, whose layers are not counted here; counted are {', '.join(COUNTED_TYPES)}. "
            f"{A_RUN_SHOWS}"
        )
    _check_numbers(path, config)
    try:
        return Shape.from_config(config), off_fast_path(config)
    except KeyError as error:
        raise InputError(f"{path} has no {error}: only Llama-shaped bases can be planned.") from error


def _check_numbers(path: Path, config: dict[str, Any]) -> None:
    """Refuse sizes that are none."""
    for name in SIZES:
        value = config.get(name)
        optional = name in ("num_key_value_heads", "head_dim") and value is None
        if name in config and not optional and not (type(value) is int and value > 0):
            raise InputError(f"{path} says {name} {value!r}; wanted a whole number above 0.")


def _text_settings(path: Path) -> dict[str, Any]:
    """The settings of a base's text model, what its config.json leaves to the class's defaults among them."""
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if config.get("model_type") in SELF_CONTAINED:
        return config
    from transformers import AutoConfig  # takes seconds

    try:
        whole = AutoConfig.from_pretrained(path.parent, trust_remote_code=False)
    except (ValueError, KeyError):  # a class of its own, which is counted by what it says
        return config
    except Exception as error:  # a value of another type, which each class says in its own way
        raise InputError(
            f"{path} cannot be used: {' '.join(str(error).split())[:200].rstrip('.')}."
        ) from error
    found = whole.get_text_config(decoder=True)
    tied = {"tie_word_embeddings": True} if getattr(whole, "tie_word_embeddings", False) else {}
    # The file's own names too: what is said of it should be found in it.
    return dict(config | found.to_dict() | tied)


def _cached_config(base: str) -> Path:
    """The config.json of a base in the Hub's cache."""
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(base, "config.json") if is_hub_name(base) else None
    if isinstance(cached, str):
        return Path(cached)
    hint = f"Fetch that one file with `hf download {base} config.json`."
    if base.startswith("models/"):
        hint = "It appears when the CPT stage has ended; until then plan with --model.base and that stage's base."
    raise InputError(
        f"The shape of {base} is not known here: no config.json of it is on this machine. {hint}"
    )


def is_cached(base: str) -> bool:
    """Whether the Hub's cache holds a model's weights, so that nothing is downloaded."""
    from huggingface_hub import try_to_load_from_cache

    names = ("model.safetensors.index.json", "model.safetensors")
    return is_hub_name(base) and any(isinstance(try_to_load_from_cache(base, name), str) for name in names)
