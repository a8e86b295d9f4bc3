"""Whether questions are asked as the model was trained to answer them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from taigi_lightning.errors import InputError

RUN_CONFIG = "config.yaml"  # what `fit` leaves of its settings, in the folder that also holds the adapter


def check_prompt_style(base: str, adapter: str | None, chat_template: bool) -> None:
    """Refuse to ask in a chat template what was trained without, or the other way round.

    Says nothing of a model that no `fit` on questions has left.

    Raises:
        InputError: the run that trained the adapter, or the base, had another `chat_template`.
    """
    folder = Path(adapter).parent if adapter is not None else Path(base)
    trained = _trained_style(folder / RUN_CONFIG)
    if trained is not None and trained != chat_template:
        raise InputError(
            f"{folder} was trained on questions with chat_template: {str(trained).lower()}, and now they would be "
            f"asked with {str(chat_template).lower()}. Set --data.init_args.chat_template {str(trained).lower()}."
        )


def _trained_style(config: Path) -> bool | None:
    """`chat_template` of a run on questions; None if there was none, or its config cannot be read."""
    if not config.is_file():
        return None
    try:
        data: Any = yaml.safe_load(config.read_text(encoding="utf-8"))["data"]
        kind = str(data["class_path"]).rpartition(".")[2]
        return bool(data["init_args"].get("chat_template", False)) if kind == "SFTDataModule" else None
    except (yaml.YAMLError, KeyError, TypeError, AttributeError):
        return None
