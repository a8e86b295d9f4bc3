"""Conversations as token ids where a tokenizer has no chat template: questions and answers, one after the other."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from taigi_lightning.tasks.conversation_forms import Message, is_learnt
from taigi_lightning.tasks.conversations import Conversation
from taigi_lightning.tasks.prompts import IGNORE, Example, encode_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def encode_plain(tokenizer: PreTrainedTokenizerBase, conversation: Conversation) -> Example:
    """Encode a conversation for training, with labels on each answer that is learnt and on its EOS."""
    input_ids, labels = plain_pieces(tokenizer, conversation)
    return Example(input_ids, labels, 0)


def plain_pieces(
    tokenizer: PreTrainedTokenizerBase, conversation: Conversation
) -> tuple[list[int], list[int]]:
    """Token ids and labels of each exchange after the other; a question at the end has no EOS."""
    eos = tokenizer.eos_token_id
    input_ids: list[int] = []
    labels: list[int] = []
    asked = [_as_json(tool) for tool in conversation.tools or ()]
    for message in conversation.messages:
        if message["role"] != "assistant":
            asked.append(message["content"])
            continue
        before = "\n".join(asked) + (conversation.joint if asked else "")
        ids = _encoded(tokenizer, before + _plain_answer(message), first=not input_ids)
        context = _shared_tokens(_encoded(tokenizer, before, first=not input_ids), ids)
        input_ids += [*ids, eos]
        learnt = [*([IGNORE] * context), *ids[context:], eos]
        labels += learnt if is_learnt(message) else [IGNORE] * len(learnt)
        asked = []
    if asked:
        ids = _encoded(tokenizer, "\n".join(asked) + conversation.joint, first=not input_ids)
        input_ids += ids
        labels += [IGNORE] * len(ids)
    return input_ids, labels


def _plain_answer(message: Message) -> str:
    """What the assistant says, and below it what it calls, as JSON."""
    calls = (_as_json(call.get("function", call)) for call in message.get("tool_calls") or ())
    return "\n".join([*([message["content"]] if message["content"] else []), *calls])


def _as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def _encoded(tokenizer: PreTrainedTokenizerBase, text: str, *, first: bool) -> list[int]:
    """A piece of a conversation; only the first has BOS."""
    ids = encode_text(tokenizer, [text])[0]
    return ids if first or ids[:1] != [tokenizer.bos_token_id] else ids[1:]


def _shared_tokens(alone: list[int], ids: list[int]) -> int:
    """How many tokens lie before the answer: those that the question alone has too."""
    return next(
        (n for n, (a, b) in enumerate(zip(alone, ids, strict=False)) if a != b), min(len(alone), len(ids))
    )
