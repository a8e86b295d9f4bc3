"""The usual forms of instruction data: OpenAI's messages, ShareGPT, Alpaca, prompt and completion, templates."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taigi_lightning.errors import InputError
from taigi_lightning.tasks.record_files import Record
from taigi_lightning.tasks.text_template import TextTemplate

Message = dict[str, Any]  # what a chat template takes: role, content, perhaps tool_calls

# Whom ShareGPT files mean; other names are kept as they are, and the chat template knows them or refuses. Capitals do
# not count.
SPEAKERS = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "ai": "assistant",
    "observation": "tool",
    "function_response": "tool",
    "user": "user",
    "assistant": "assistant",
    "system": "system",
    "tool": "tool",
    "developer": "system",
}
CALLS = "function_call"  # who calls a tool in ShareGPT files: the assistant, with what it calls as JSON
KEPT = ("tool_calls", "tool_call_id", "name", "reasoning_content")  # of a turn, beside who speaks and what


@dataclass(frozen=True)
class InstructionTemplate:
    """How the columns of a file become a conversation of one turn.

    Args:
        user: what is asked, with columns in braces: "翻譯做台語：{mandarin}".
        assistant: what is answered, such as "{taigi}".
        system: what stands before the conversation, if anything.
    """

    user: str
    assistant: str
    system: str | None = None


@dataclass(frozen=True, slots=True)
class Turns:
    """A record's messages, and what parts question and answer where a tokenizer has no chat template."""

    messages: list[Message]
    joint: str = "\n"


def conversation_form(
    path: Path, names: Sequence[str], template: InstructionTemplate | None
) -> Callable[[Record], Turns]:
    """What makes messages of a record of a file.

    Args:
        path: the file, for errors.
        names: its columns.
        template: what to make of them, instead of the form that they are known by.

    Raises:
        InputError: the columns are of no form, or lack one that the template asks for.
    """
    if template is not None:
        return _by_template(path, names, template)
    for needed, read in FORMS.items():
        if all(any(name in names for name in one.split("|")) for one in needed):
            return read
    wanted = "; ".join(", ".join(needed).replace("|", " or ") for needed in FORMS)
    raise InputError(
        f"{path} has the columns {', '.join(names)}. Wanted are those of one of these forms: {wanted}. Name them under "
        "data.init_args.columns, or say what to make of yours under data.init_args.template."
    )


def _by_template(
    path: Path, names: Sequence[str], template: InstructionTemplate
) -> Callable[[Record], Turns]:
    parts = {
        role: TextTemplate(f"data.init_args.template.{role}", text)
        for role, text in (
            ("system", template.system),
            ("user", template.user),
            ("assistant", template.assistant),
        )
        if text is not None
    }
    for part in parts.values():
        part.check(names, str(path))
    if not parts["assistant"].placeholders:
        raise InputError(
            f"data.init_args.template.assistant is {template.assistant!r}, without a column in braces: every answer "
            f"would be the same. Write one of {', '.join(f'{{{name}}}' for name in names)}."
        )

    def read(record: Record) -> Turns:
        values = {
            name: text_of(record.values.get(name), name)
            for part in parts.values()
            for name in part.placeholders
        }
        return Turns([{"role": role, "content": part.render(values)} for role, part in parts.items()])

    return read


def openai_turns(record: Record) -> Turns:
    """What stands under `messages`, in OpenAI's keys."""
    return Turns([message_of(turn, "role", "content") for turn in turns_of(record, "messages")])


def _sharegpt(record: Record) -> Turns:
    name = "conversations" if record.values.get("conversations") is not None else "conversation"
    turns = turns_of(record, name)
    # Some files of this name hold OpenAI's keys.
    keys = ("role", "content") if turns and "role" in turns[0] else ("from", "value")
    return Turns([message_of(turn, *keys) for turn in turns])


def _alpaca(record: Record) -> Turns:
    values = record.values
    asked = [
        text_of(values.get(name), name) for name in ("instruction", "input") if not is_blank(values.get(name))
    ]
    messages: list[Message] = []
    for pair in values.get("history") or ():
        if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
            raise InputError("history is no list of pairs of a question and its answer.")
        messages += _exchange(*(text_of(part, "history") for part in pair))
    return Turns([*messages, *_exchange("\n".join(asked), text_of(values.get("output"), "output"))])


def _input_output(record: Record) -> Turns:
    asked, answered = (text_of(record.values.get(name), name) for name in ("input", "output"))
    return Turns(_exchange(asked, answered))


def _prompt_completion(record: Record) -> Turns:
    name = "completion" if record.values.get("completion") is not None else "response"
    prompt, completion = record.values.get("prompt"), record.values.get(name)
    if isinstance(prompt, list) and isinstance(completion, list):  # both as messages, as TRL has them
        return Turns([message_of(turn, "role", "content") for turn in [*prompt, *completion]])
    return Turns(_exchange(text_of(prompt, "prompt"), text_of(completion, name)), joint="")


FORMS: dict[tuple[str, ...], Callable[[Record], Turns]] = {
    ("messages",): openai_turns,
    ("conversations|conversation",): _sharegpt,
    ("instruction", "output"): _alpaca,
    ("prompt", "completion|response"): _prompt_completion,
    ("input", "output"): _input_output,
}


# What `columns` may call otherwise; a template takes any columns.
FIELDS = tuple(
    dict.fromkeys([*"|".join("|".join(form) for form in FORMS).split("|"), "system", "history", "tools"])
)


def _exchange(asked: str, answered: str) -> list[Message]:
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]


def turns_of(record: Record, name: str) -> list[Any]:
    """A list of turns, which a CSV holds as JSON.

    Raises:
        InputError: the column holds something else.
    """
    turns = record.values.get(name)
    if is_blank(turns):
        raise InputError(f"{name} is empty.")
    if isinstance(turns, str):  # as a CSV has them
        try:
            turns = json.loads(turns)
        except json.JSONDecodeError as error:
            raise InputError(f"{name} is no list of turns ({error}).") from error
    if not isinstance(turns, list) or not all(isinstance(turn, Mapping) for turn in turns):
        raise InputError(f"{name} is {type(turns).__name__}; wanted a list of turns.")
    return turns


def message_of(turn: Mapping[str, Any], role: str, content: str) -> Message:
    """A turn as a chat template takes it.

    Args:
        turn: as the file has it.
        role: under which key it says who speaks.
        content: under which key it says what.

    Raises:
        InputError: one of them is missing, or the content is not text.
    """
    if not isinstance(turn.get(role), str):
        raise InputError(f"a turn has no {role}; found {', '.join(turn)}.")
    said = turn.get(content)
    if isinstance(said, list):
        if any(not isinstance(part, Mapping) or part.get("type", "text") != "text" for part in said):
            raise InputError(f"a turn's {content} holds something other than text, which is not read here.")
        said = "".join(text_of(part.get("text"), "text") for part in said)
    # Parquet gives every turn every key that any turn has.
    kept = {key: value for key, value in turn.items() if key in KEPT and value is not None}
    if "tool_calls" in kept:
        kept["tool_calls"] = [_as_objects(call) for call in _calls_of(kept["tool_calls"])]
    if said is None and "tool_calls" not in kept:
        raise InputError(f"a turn of {turn[role]} has no {content}.")
    speaker = turn[role].casefold()
    if speaker == CALLS:
        return {"role": "assistant", "content": "", "tool_calls": _calls(text_of(said, content)), **kept}
    speaker = SPEAKERS.get(speaker, turn[role])
    if (weight := turn.get("weight")) is not None and speaker == "assistant":
        if weight not in (0, 1):
            raise InputError(
                f"a turn's weight is {weight!r}; wanted 1, or 0 for an answer that is not to be learnt."
            )
        kept["weight"] = int(weight)
    return {"role": speaker, "content": "" if said is None else text_of(said, content), **kept}


def _calls_of(found: Any) -> list[Mapping[str, Any]]:
    if not isinstance(found, list) or not all(isinstance(call, Mapping) for call in found):
        raise InputError("a turn's tool_calls are no list of calls.")
    return found


def _as_objects(call: Mapping[str, Any]) -> dict[str, Any]:
    """A call with its arguments as an object, which templates write as JSON; OpenAI's files have them as JSON text."""
    function = call.get("function")
    if not isinstance(function, Mapping) or not isinstance(said := function.get("arguments"), str):
        return dict(call)
    try:
        return {**call, "function": {**function, "arguments": json.loads(said)}}
    except json.JSONDecodeError:
        return dict(call)  # text that is no JSON is written as it is


def _calls(said: str) -> list[dict[str, Any]]:
    """What a ShareGPT turn of `function_call` calls, as a chat template takes it: an object, or a list of them."""
    try:
        found = json.loads(said)
    except json.JSONDecodeError as error:
        raise InputError(f"a turn of {CALLS} is no JSON ({error}).") from error
    calls = found if isinstance(found, list) else [found]
    if not calls or not all(isinstance(call, dict) and isinstance(call.get("name"), str) for call in calls):
        raise InputError(f'a turn of {CALLS} calls nothing; wanted {{"name": …, "arguments": …}}.')
    return [{"type": "function", "function": call} for call in calls]


def is_learnt(message: Message) -> bool:
    """Whether a turn of the assistant is to be learnt: it is, unless its weight is 0."""
    return bool(message.get("weight", 1))


def is_blank(value: Any) -> bool:
    """Whether a column holds nothing: no value, or blanks alone."""
    return value is None or (isinstance(value, str) and not value.strip())


def text_of(value: Any, name: str) -> str:
    """A column's value as text.

    Raises:
        InputError: it is empty, or a list or an object.
    """
    if value is None:
        raise InputError(f"{name} is empty.")
    if isinstance(value, dict | list):
        raise InputError(f"{name} is a {type(value).__name__}; wanted text.")
    return str(value)


def tools_of(record: Record) -> list[Any] | None:
    """The functions that a record describes for the chat template, which a CSV holds as JSON.

    Raises:
        InputError: they are no list.
    """
    tools = record.values.get("tools")
    if isinstance(tools, str):
        try:
            tools = json.loads(tools) if tools.strip() else None
        except json.JSONDecodeError as error:
            raise InputError(f"tools is no list of functions ({error}).") from error
    if tools is not None and not isinstance(tools, list):
        raise InputError(f"tools is {type(tools).__name__}; wanted a list of functions.")
    return tools or None
