"""Conversations as token ids, with a label wherever the assistant speaks."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from taigi_lightning.errors import InputError
from taigi_lightning.tasks.chat_template import apply_chat_template, check_chat_template
from taigi_lightning.tasks.conversation_forms import Message, is_learnt
from taigi_lightning.tasks.conversations import Conversation
from taigi_lightning.tasks.plain_conversations import encode_plain, plain_pieces
from taigi_lightning.tasks.prompts import IGNORE, Example, cut_middle

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Span = tuple[int, int]
STAND_IN = ("\ue000", "\ue001")  # private characters, which no text of a template holds


def encode_conversation_example(
    tokenizer: PreTrainedTokenizerBase, conversation: Conversation, max_length: int, chat_template: bool
) -> Example | None:
    """Encode a conversation for training: labels on each of the assistant's turns and on what ends them.

    With `chat_template` the ids are those of `apply_chat_template`. Without, each question and its answer are written
    one after the other, and EOS ends the answer; what stands before the first answer has BOS. Tools and calls of them
    are then written as JSON, one in each line. Answers of the weight 0 have no labels.

    A conversation of over `max_length` tokens loses its oldest exchanges, a question with its answer, the system's
    turn staying. If the last exchange alone is too long, the last thing the user says loses characters from its
    middle, as few as will do. Answers are never cut.

    Returns:
        The example; None where not even the answer fits.

    Raises:
        InputError: the chat template does not take the conversation or leaves something of it out, or a text holds a
            special token.
    """
    encode = _encode_chat if chat_template else encode_plain
    kept = conversation
    example = encode(tokenizer, kept)
    while len(example.input_ids) > max_length and (shorter := _without_oldest(kept)) is not None:
        kept = shorter
        example = encode(tokenizer, kept)
    if len(example.input_ids) > max_length:
        found = _with_shorter_question(kept, lambda one: len(encode(tokenizer, one).input_ids) <= max_length)
        if found is None:
            return None
        kept, example = found, encode(tokenizer, found)
    return replace(example, cut_characters=conversation.characters - kept.characters)


def encode_open_conversation(
    tokenizer: PreTrainedTokenizerBase, conversation: Conversation, chat_template: bool
) -> list[int]:
    """Token ids of a conversation up to where the assistant is to go on, as training on it would have them.

    Raises:
        InputError: the last turn is the assistant's, the chat template does not take the conversation, or a text holds
            a special token.
    """
    if conversation.messages[-1]["role"] == "assistant":
        raise InputError(
            f"{conversation.place}: the last turn is the assistant's, so there is nothing to answer."
        )
    if not chat_template:
        return plain_pieces(tokenizer, conversation)[0]
    check_chat_template(tokenizer)
    _check_plain_text(tokenizer, conversation)

    def render(messages: Sequence[Message]) -> str:
        return _rendered(tokenizer, messages, conversation, add_generation_prompt=True)

    text = render(conversation.messages)
    _check_whole(render, conversation, text)
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def answer_ends(tokenizer: PreTrainedTokenizerBase, chat_template: bool) -> list[int]:
    """The tokens with which an answer ends: EOS, and with a chat template what that puts after one."""
    ends = [tokenizer.eos_token_id]
    if chat_template:
        asked = Conversation(
            "a question", ({"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}), b""
        )
        encoded = _encode_chat(tokenizer, asked)
        ends += [label for label in encoded.labels if label in tokenizer.all_special_ids]
    return list(dict.fromkeys(ends))


def _without_oldest(conversation: Conversation) -> Conversation | None:
    """The conversation without its first exchange; None if it has but one."""
    messages = conversation.messages
    opening = next(n for n, message in enumerate(messages) if message["role"] != "system")
    asked = [n for n, message in enumerate(messages) if message["role"] == "user" and n > opening]
    if not asked:
        return None
    return replace(conversation, messages=(*messages[:opening], *messages[asked[0] :]))


def _with_shorter_question(
    conversation: Conversation, fits: Callable[[Conversation], bool]
) -> Conversation | None:
    """The conversation with as much of the last question as fits, found by bisection; None if nothing of it does."""
    messages = conversation.messages
    places = [n for n, message in enumerate(messages) if message["role"] == "user"]
    if not places:
        return None
    place, text = places[-1], messages[places[-1]]["content"]

    def shorter(kept: int) -> Conversation:
        asked = {**messages[place], "content": cut_middle(text, kept)}
        return replace(conversation, messages=(*messages[:place], asked, *messages[place + 1 :]))

    fitting, too_many = -1, len(text)
    while too_many - fitting > 1:
        middle = (fitting + too_many) // 2
        if fits(shorter(middle)):
            fitting = middle
        else:
            too_many = middle
    return shorter(fitting) if fitting > 0 else None


def _encode_chat(tokenizer: PreTrainedTokenizerBase, conversation: Conversation) -> Example:
    check_chat_template(tokenizer)
    _check_plain_text(tokenizer, conversation)

    def render(messages: Sequence[Message], **options: Any) -> str:
        return _rendered(tokenizer, messages, conversation, **options)

    messages = conversation.messages
    whole = render(messages)
    _check_whole(render, conversation, whole)
    closing = _closing(tokenizer, whole[_content_span(render, messages, len(messages) - 1, whole)[1] :])
    answers = [n for n, message in enumerate(messages) if message["role"] == "assistant"]
    spans = [_answer_span(render, messages, n, whole, closing) for n in answers]
    if any(end > start for (_, end), (start, _) in pairwise(spans)):
        raise InputError(
            f"{conversation.place}: the chat template ends one answer only after the next has begun, so nobody can "
            "tell what the assistant says. Leave chat_template out."
        )
    encoded = tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)
    ids: list[int] = encoded["input_ids"]
    labels = [IGNORE] * len(ids)
    learnt = [span for span, n in zip(spans, answers, strict=True) if is_learnt(messages[n])]
    for place, (start, end) in enumerate(encoded["offset_mapping"]):
        if any(end > span[0] and start < span[1] for span in learnt):
            labels[place] = ids[place]
    return Example(ids, labels, 0)


def _check_whole(render: Callable[..., str], conversation: Conversation, whole: str) -> None:
    """Refuse a template that passes over a turn, a call of a tool or the tools: the model would learn something else.

    Raises:
        InputError: with what it leaves out.
    """
    messages = conversation.messages

    def is_written(place: int) -> bool:
        said = messages[place]["content"].strip()
        if whole.count(said) >= sum(said in message["content"] for message in messages):
            return True
        # Some write a tool's words as JSON, or an earlier answer without its thoughts: words of no other turn tell.
        other = {**messages[place], "content": STAND_IN[0]}
        return STAND_IN[0] in render([*messages[:place], other, *messages[place + 1 :]])

    left_out = [f"what the {message['role']} says" for n, message in enumerate(messages) if not is_written(n)]
    calls = [call for message in messages for call in message.get("tool_calls") or ()]
    named = {"a call of": calls, "the tool": conversation.tools or []}
    left_out += [
        f"{what} {name}" for what, found in named.items() for name in _names(found) if name not in whole
    ]
    if left_out:
        raise InputError(
            f"{conversation.place}: the tokenizer's chat template leaves out {' and '.join(left_out)}. Take the row "
            "out, use a base whose template writes it, or set chat_template to false."
        )


def _names(calls: Sequence[Any]) -> list[str]:
    """What functions are called, in OpenAI's form or bare."""
    found = (call.get("function", call) for call in calls if isinstance(call, dict))
    return [str(function["name"]) for function in found if isinstance(function, dict) and "name" in function]


def _check_plain_text(tokenizer: PreTrainedTokenizerBase, conversation: Conversation) -> None:
    for message in conversation.messages:
        said = f"{message['content']} {json.dumps(message.get('tool_calls'), ensure_ascii=False)}"
        if found := next((token for token in tokenizer.all_special_tokens if token in said), None):
            raise InputError(
                f"{conversation.place} holds {found!r} in its text, which the chat template would take for the token "
                "of that name. Take it out, or leave chat_template out."
            )


def _rendered(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    conversation: Conversation,
    **options: Any,
) -> str:
    said = [{key: value for key, value in message.items() if key != "weight"} for message in messages]
    try:
        text: str = apply_chat_template(tokenizer, said, tools=conversation.tools, tokenize=False, **options)
    except Exception as error:  # whatever the template, which is a program, raises
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        roles = ", ".join(str(message["role"]) for message in messages)
        raise InputError(
            f"{conversation.place}: the tokenizer's chat template does not take this conversation ({roles}): {reason} "
            "Take the row out, change its roles, or leave chat_template out."
        ) from error
    return text


def _answer_span(
    render: Callable[..., str], messages: Sequence[Message], place: int, whole: str, closing: str
) -> Span:
    """Where in the rendered conversation a turn of the assistant lies, with what ends it."""
    begin, end = _content_span(render, messages, place, whole)
    try:
        asked, before = (render(messages[:place], add_generation_prompt=prompt) for prompt in (False, True))
        # A template may put words of its own before the answer, an empty thought say: the model has to write them too.
        if before != asked and whole.startswith(before):
            begin = min(begin, len(before))
    except InputError:
        pass  # it does not take a conversation that breaks off here; the text of the turn itself is known
    # Calls of tools are written between a turn's text and its end.
    ends = whole.find(closing, end) if messages[place].get("tool_calls") else end
    return begin, ends + len(closing) if whole.startswith(closing, ends) else end


def _content_span(render: Callable[..., str], messages: Sequence[Message], place: int, whole: str) -> Span:
    """Where a turn's text lies: between what two other texts in its place have in common around them.

    Of a turn beside whose calls no text is written, where what is called first lies.
    """
    turn = messages[place]

    def instead(**other: Any) -> str:
        return render([*messages[:place], {**turn, **other}, *messages[place + 1 :]])

    one, two = (instead(content=text) for text in STAND_IN)
    if one == two and (calls := turn.get("tool_calls")):
        one, two = (
            instead(
                tool_calls=[{"type": "function", "function": {"name": text, "arguments": {}}}, *calls[1:]]
            )
            for text in STAND_IN
        )
    begin, end = _common_prefix(one, two), len(whole) - _common_prefix(one[::-1], two[::-1])
    if whole[:begin] != one[:begin] or whole[end:] != one[len(one) - len(whole) + end :]:
        # The template looks into the text, and what it writes around it depends on that.
        begin, end = _common_prefix(whole, one), len(whole) - _common_prefix(whole[::-1], one[::-1])
    return begin, max(begin, end)


def _common_prefix(one: str, two: str) -> int:
    return next(
        (n for n, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two))
    )


def _closing(tokenizer: PreTrainedTokenizerBase, rest: str) -> str:
    """What ends a turn of the assistant, out of all that follows the last one: up to the first special token.

    Of `<|im_end|>` and a line break that is `<|im_end|>`; all of it where there is no special token.
    """
    ends = [
        rest.find(token) + len(token) for token in tokenizer.all_special_tokens if token and token in rest
    ]
    return rest[: min(ends)] if ends else rest
