"""Whether questions are asked as the model was trained to answer them."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from taigi_lightning.errors import InputError
from taigi_lightning.tasks.question_prompt import FOUR_CHOICE, QuestionPrompt, question_prompt

RUN_CONFIG = "config.yaml"  # what `fit` leaves of its settings, in the folder that also holds the adapter


def check_prompt_style(
    base: str, adapter: str | None, chat_template: bool, prompt: QuestionPrompt = FOUR_CHOICE
) -> None:
    """Refuse to ask in a chat template what was trained without, or the other way round, or in other words.

    Says nothing of a model that no `fit` on questions has left.

    Raises:
        InputError: the run that trained the adapter, or the base, had another `chat_template` or `prompt`.
    """
    folder = Path(adapter).parent if adapter is not None else Path(base)
    found = _trained_style(folder / RUN_CONFIG)
    if found is None:
        return
    trained, worded = found
    if trained != chat_template:
        raise InputError(
            f"{folder} was trained on questions with chat_template: {str(trained).lower()}, and now they would be "
            f"asked with {str(chat_template).lower()}. Set --data.init_args.chat_template {str(trained).lower()}."
        )
    if worded != prompt:
        differing = [name for name in asdict(prompt) if getattr(worded, name) != getattr(prompt, name)]
        if not worded.has_own_text and not prompt.has_own_text:
            differing = [name for name in differing if name != "text"]  # which follows from the others
        raise InputError(
            f"{folder} was trained on questions with another {' and '.join(f'prompt.{name}' for name in differing)}: "
            f"{', '.join(repr(getattr(worded, name)) for name in differing)}. Set data.init_args.prompt as "
            f"{folder / RUN_CONFIG} has it."
        )


def _trained_style(config: Path) -> tuple[bool, QuestionPrompt] | None:
    """`chat_template` and `prompt` of a run on questions; None if there was none, or its config cannot be read."""
    if not config.is_file():
        return None
    try:
        data: Any = yaml.safe_load(config.read_text(encoding="utf-8"))["data"]
        kind = str(data["class_path"]).rpartition(".")[2]
        if kind != "SFTDataModule":
            return None
        settings = data["init_args"]
        return bool(settings.get("chat_template", False)), question_prompt(settings.get("prompt") or {})
    except (yaml.YAMLError, KeyError, TypeError, AttributeError, InputError):
        return None
