"""The small JSON files that a run leaves and later ones read: where it came from, and how its adapter is made."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from taigi_lightning.errors import InputError

LINEAGE = "lineage.json"
ADAPTER_CONFIG = "adapter_config.json"
TOKEN_INDICES = "trainable_token_indices"  # in it: PEFT's name for the tokens whose rows an adapter brings
HOW_TRAINED = (
    "how_it_trained.json"  # sentences: which projections have LoRA, which path the layers take, what is off
)


# The longest paths below a run's folder, as they are while they are written aside.
ADAPTER_ASIDE = "adapter.partial/adapter_model.safetensors"
SHARD_ASIDE = ".partial/model-00001-of-00100.safetensors"
IN_A_RUN = (
    "checkpoints/interrupted-step=1000000.ckpt",
    "logs/version_100/metrics.csv",
    ADAPTER_ASIDE,
    SHARD_ASIDE,
)


def run_names(checkpoint: str, base: str = "") -> list[str]:
    """The longest paths that `fit` makes below its folder.

    Args:
        checkpoint: the template of the checkpoints' names.
        base: whose shards' names the merged model takes over, where it is a folder.

    >>> run_names("{step}-{val/loss:.2f}")[-1]
    'checkpoints/step=1234567-val/loss=1234567.ckpt'
    """
    filled = re.sub(r"\{([^}:]*)[^}]*\}", r"\1=1234567", checkpoint)
    return [*IN_A_RUN, *shard_names(base), f"checkpoints/{filled}.ckpt"]


def shard_names(base: str) -> list[str]:
    """The paths of a merged model's shards below its folder, while they are written."""
    return [SHARD_ASIDE, *(f".partial/{file.name}" for file in Path(base).glob("*.safetensors") if base)]


def read_json(path: Path) -> Any:
    """What a JSON file holds, or None where there is none.

    Raises:
        InputError: the file is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}). It is written by `fit`: was it edited?") from error


def lineage_file(folder: Path) -> dict[str, Any] | None:
    """What lineage.json in a folder says, or None where there is none.

    Raises:
        InputError: it cannot be read, or names no base.
    """
    found = read_json(folder / LINEAGE)
    if found is None and not (folder / LINEAGE).is_file():
        return None
    if not isinstance(found, dict) or not isinstance(found.get("base"), dict):
        raise InputError(
            f"{folder / LINEAGE} is no lineage.json that names a base. Write it again with its run."
        )
    return found


def adapter_config(folder: Path, advice: str = "Give the folder of a PEFT adapter.") -> dict[str, Any]:
    """What adapter_config.json of a saved adapter says.

    Args:
        advice: what to do where there is none.

    Raises:
        InputError: it is not there, or is no JSON object.
    """
    found = read_json(folder / ADAPTER_CONFIG)
    if found is None:
        raise InputError(f"{folder} holds no {ADAPTER_CONFIG}. {advice}")
    if not isinstance(found, dict):
        raise InputError(f"{folder / ADAPTER_CONFIG} holds no JSON object. Save the adapter again.")
    return found
