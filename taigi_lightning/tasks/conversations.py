"""Instruction data of any usual form as conversations: messages, ShareGPT, Alpaca, prompt and completion, templates."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taigi_lightning.errors import InputError
from taigi_lightning.tasks.record_files import Record, read_records
from taigi_lightning.tasks.text_template import TextTemplate

Message = dict[str, Any]  # what a chat template takes: role, content, perhaps tool_calls

SHOWN = 5  # problems named in one error
# Whom ShareGPT files mean; other names are kept as they are, and the chat template knows them or refuses.
SPEAKERS = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "observation": "tool",
    "function_response": "tool",
    "developer": "system",
}


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
class Conversation:
    """One example to learn from.

    Args:
        place: where it stands in its file, for errors.
        messages: the turns; the last one is the assistant's.
        group: conversations of one group are never divided between training and validation.
        joint: what parts the user's text and the answer where a tokenizer has no chat template.
        tools: descriptions of functions for the chat template, if there are any.
    """

    place: str
    messages: tuple[Message, ...]
    group: bytes
    joint: str = "\n"
    tools: list[Any] | None = None

    @property
    def characters(self) -> int:
        """Characters of all turns."""
        return sum(len(message["content"]) for message in self.messages)


def read_conversations(
    path: str | Path,
    columns: Mapping[str, str] | None = None,
    template: InstructionTemplate | None = None,
    group_by: str | None = None,
) -> list[Conversation]:
    """Read a file's conversations, in order.

    The form is known by its columns: `messages` (OpenAI), `conversations` or `conversation` (ShareGPT), `instruction`
    and `output`, perhaps with `input`, `system` and `history` (Alpaca), `prompt` and `completion` or `response`. With
    a template the columns may be any. Turns after the last answer teach nothing and are left out.

    Args:
        path: JSON lines, a JSON list, CSV or Parquet.
        columns: other column names, from the usual name to the file's, such as `{prompt: question}`.
        template: what to make of the columns instead.
        group_by: a column whose values keep conversations together in a validation split; otherwise the first thing
            that the user says does.

    Raises:
        InputError: the file cannot be read, its columns are of no form, or rows cannot be used; up to five are named.
    """
    path = Path(path)
    records = [_renamed(record, columns or {}, path) for record in read_records(path)]
    names = list(dict.fromkeys(name for record in records for name in record.values))
    if group_by is not None and group_by not in names:
        raise InputError(f"group_by is {group_by}, and {path} has no such column; found {', '.join(names)}.")
    read = _reader(path, names, template)
    found, problems = [], []
    for record in records:
        try:
            found.append(_conversation(record, read(record), group_by))
        except InputError as error:
            problems.append(f"{record.place}: {error}")
    if problems:
        more = f" And {len(problems) - SHOWN} rows more." if len(problems) > SHOWN else ""
        raise InputError(f"{path}, " + " ".join(problems[:SHOWN]) + more)
    return found


def open_conversation(record: Record) -> Conversation:
    """A record's prompt, as a conversation that the assistant is to go on with.

    It stands under `messages`, which may end with an answer that is left out, `prompt`, `instruction` with `input`, or
    `text`.

    Raises:
        InputError: there is none.
    """
    values = record.values
    if values.get("messages") is not None:
        messages = list(_openai(record).messages)
        while messages and messages[-1]["role"] == "assistant":
            messages.pop()
    elif isinstance(values.get("prompt"), list):
        messages = [_message(turn, "role", "content") for turn in _turns(record, "prompt")]
    else:
        names = (
            ("prompt",)
            if "prompt" in values
            else ("instruction", "input")
            if "instruction" in values
            else ("text",)
        )
        asked = [_text(values[name], name) for name in names if values.get(name)]
        messages = [{"role": "user", "content": "\n".join(asked)}] if asked else []
    if not messages:
        raise InputError(f"there is no prompt, messages, instruction or text; found {', '.join(values)}.")
    return Conversation(record.place, tuple(messages), b"", joint="" if "prompt" in values else "\n")


def _renamed(record: Record, columns: Mapping[str, str], path: Path) -> Record:
    values = dict(record.values)
    for usual, name in columns.items():
        if name in values:
            values[usual] = values.pop(name)
        elif record.number == 1:
            raise InputError(
                f"columns says that {usual} is called {name}, and {path} has no such column; found "
                f"{', '.join(record.values)}."
            )
    return record._replace(values=values)


@dataclass(frozen=True, slots=True)
class _Read:
    messages: list[Message]
    joint: str = "\n"


def _reader(
    path: Path, names: Sequence[str], template: InstructionTemplate | None
) -> Callable[[Record], _Read]:
    """What makes messages of a record of this file."""
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
) -> Callable[[Record], _Read]:
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

    def read(record: Record) -> _Read:
        values = {
            name: _text(record.values.get(name), name)
            for part in parts.values()
            for name in part.placeholders
        }
        return _Read([{"role": role, "content": part.render(values)} for role, part in parts.items()])

    return read


def _openai(record: Record) -> _Read:
    return _Read([_message(turn, "role", "content") for turn in _turns(record, "messages")])


def _sharegpt(record: Record) -> _Read:
    name = "conversations" if record.values.get("conversations") is not None else "conversation"
    turns = _turns(record, name)
    # Some files of this name hold OpenAI's keys.
    keys = ("role", "content") if turns and "role" in turns[0] else ("from", "value")
    system = record.values.get("system")
    first = [{"role": "system", "content": _text(system, "system")}] if system else []
    return _Read([*first, *(_message(turn, *keys) for turn in turns)])


def _alpaca(record: Record) -> _Read:
    values = record.values
    asked = [_text(values.get(name), name) for name in ("instruction", "input") if values.get(name)]
    messages: list[Message] = []
    if values.get("system"):
        messages.append({"role": "system", "content": _text(values["system"], "system")})
    for pair in values.get("history") or ():
        if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
            raise InputError("history is no list of pairs of a question and its answer.")
        messages += _exchange(*(_text(part, "history") for part in pair))
    return _Read([*messages, *_exchange("\n".join(asked), _text(values.get("output"), "output"))])


def _prompt_completion(record: Record) -> _Read:
    name = "completion" if record.values.get("completion") is not None else "response"
    prompt, completion = record.values.get("prompt"), record.values.get(name)
    if isinstance(prompt, list) and isinstance(completion, list):  # both as messages, as TRL has them
        return _Read([_message(turn, "role", "content") for turn in [*prompt, *completion]])
    return _Read(_exchange(_text(prompt, "prompt"), _text(completion, name)), joint="")


FORMS: dict[tuple[str, ...], Callable[[Record], _Read]] = {
    ("messages",): _openai,
    ("conversations|conversation",): _sharegpt,
    ("instruction", "output"): _alpaca,
    ("prompt", "completion|response"): _prompt_completion,
}


def _exchange(asked: str, answered: str) -> list[Message]:
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]


def _turns(record: Record, name: str) -> list[Any]:
    turns = record.values.get(name)
    if isinstance(turns, str):  # as a CSV has them
        try:
            turns = json.loads(turns)
        except json.JSONDecodeError as error:
            raise InputError(f"{name} is no list of turns ({error}).") from error
    if not isinstance(turns, list) or not all(isinstance(turn, Mapping) for turn in turns):
        raise InputError(f"{name} is {type(turns).__name__}; wanted a list of turns.")
    return turns


def _message(turn: Mapping[str, Any], role: str, content: str) -> Message:
    if not isinstance(turn.get(role), str):
        raise InputError(f"a turn has no {role}; found {', '.join(turn)}.")
    said = turn.get(content)
    if isinstance(said, list):
        if any(not isinstance(part, Mapping) or part.get("type", "text") != "text" for part in said):
            raise InputError(f"a turn's {content} holds something other than text, which is not read here.")
        said = "".join(_text(part.get("text"), "text") for part in said)
    # Parquet gives every turn every key that any turn has.
    kept = {
        key: value
        for key, value in turn.items()
        if key in ("tool_calls", "tool_call_id", "name", "reasoning_content") and value is not None
    }
    if said is None and "tool_calls" not in kept:
        raise InputError(f"a turn of {turn[role]} has no {content}.")
    speaker = SPEAKERS.get(turn[role], turn[role])
    return {"role": speaker, "content": "" if said is None else _text(said, content), **kept}


def _text(value: Any, name: str) -> str:
    if value is None:
        raise InputError(f"{name} is empty.")
    if isinstance(value, dict | list):
        raise InputError(f"{name} is a {type(value).__name__}; wanted text.")
    return str(value)


def _conversation(record: Record, read: _Read, group_by: str | None) -> Conversation:
    messages = list(read.messages)
    while messages and messages[-1]["role"] != "assistant":
        messages.pop()
    answers = [message for message in messages if message["role"] == "assistant"]
    if not answers:
        raise InputError("nobody answers: there is no turn of the assistant to learn.")
    if not any(answer["content"].strip() or answer.get("tool_calls") for answer in answers):
        raise InputError("the answer is empty. Write one, or take the row out.")
    tools = record.values.get("tools")
    key = (
        record.values.get(group_by)
        if group_by
        else next(
            (message["content"] for message in messages if message["role"] == "user"), messages[0]["content"]
        )
    )
    group = hashlib.blake2b("".join(str(key).split()).encode()).digest()
    if isinstance(tools, str):
        tools = json.loads(tools) if tools.strip() else None
    return Conversation(record.place, tuple(messages), group, read.joint, tools or None)
