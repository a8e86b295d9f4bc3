"""The prompt as a conversation, rendered by the tokenizer's own chat template, for bases that were trained to chat."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

from taigi_lightning.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# What a template that writes "today's date" is told, as Llama 3.2's does: a model that is asked tomorrow is asked as it
# was trained, and a run that is resumed tomorrow goes on with the same ids. The date is the one of Llama's own default.
TODAY = date(2024, 7, 26)
DIRECTIVES = "aAbBdjmpyYHIMS"  # of strftime


def apply_chat_template(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Any], **options: Any) -> Any:
    """`tokenizer.apply_chat_template` on the same day every day: `TODAY`."""
    template = getattr(tokenizer, "chat_template", None)
    if "strftime_now" in str(template):
        options["chat_template"] = _on_one_day(tokenizer.get_chat_template(tools=options.get("tools")))
    return tokenizer.apply_chat_template(list(messages), **options)


def _on_one_day(template: str) -> str:
    """A template whose clock stands still: a macro of its own hides the function of that name."""
    said = "".join(f" | replace('%{d}', '{TODAY.strftime('%' + d)}')" for d in DIRECTIVES)
    return f"{{%- macro strftime_now(format) -%}}{{{{ format{said} }}}}{{%- endmacro -%}}{template}"


def encode_conversation(
    tokenizer: PreTrainedTokenizerBase, turns: Sequence[tuple[str, str]], where: str
) -> list[int]:
    """Token ids of a whole conversation, exactly those of `apply_chat_template` on the day `TODAY`.

    Args:
        tokenizer: the model's own, which has a chat template.
        turns: what the user says and what the model answers, from the beginning on.
        where: what an error calls the text, such as `question 12`.

    Raises:
        InputError: the tokenizer has no chat template, it takes no such conversation, or a text holds one of the
            template's special tokens.
    """
    check_chat_template(tokenizer)
    for said in (text for turn in turns for text in turn):
        if found := next((token for token in tokenizer.all_special_tokens if token in said), None):
            raise InputError(
                f"The text of {where} holds {found!r}, which the chat template would take for the token of that name. "
                "Take it out, or leave chat_template out."
            )
    messages = [
        {"role": role, "content": text}
        for turn in turns
        for role, text in zip(("user", "assistant"), turn, strict=True)
    ]
    try:
        ids: list[int] = apply_chat_template(tokenizer, messages, tokenize=True, return_dict=False)
    except Exception as error:  # whatever the template, which is a program, raises
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise InputError(
            f"The tokenizer's chat template takes no conversation of a user and an assistant: {reason} "
            "Leave chat_template out."
        ) from error
    return ids


def check_chat_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer without a chat template.

    Raises:
        InputError: it has none.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise InputError(
            f"chat_template is true, but the tokenizer of {tokenizer.name_or_path} has no chat template. Leave "
            "chat_template out, or use the -it or Instruct version of the base."
        )


def turn_end(tokenizer: PreTrainedTokenizerBase, ending: Sequence[int]) -> int:
    """How many tokens after an answer end the model's turn: up to the first special one, all if there is none."""
    special = set(tokenizer.all_special_ids)
    return next((place for place, token in enumerate(ending, start=1) if token in special), len(ending))
