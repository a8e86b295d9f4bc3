"""Instruction data as conversations to learn from, or to go on with."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from taigi_lightning.errors import InputError
from taigi_lightning.tasks.conversation_forms import (
    FIELDS,
    InstructionTemplate,
    Message,
    Turns,
    conversation_form,
    is_blank,
    message_of,
    openai_turns,
    text_of,
    tools_of,
    turns_of,
)
from taigi_lightning.tasks.record_files import Record, read_records

SHOWN = 5  # problems named in one error


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
    and `output`, perhaps with `input` and `history` (Alpaca), `prompt` and `completion` or `response`, `input` and
    `output`. In each of them `system` stands before the conversation, unless that has a system turn of its own. With a
    template the columns may be any. Turns after the last answer teach nothing and are left out; an answer of the weight
    0, as OpenAI's files may have, is read but not learnt.

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
    if template is None and (unknown := next((name for name in columns or {} if name not in FIELDS), None)):
        raise InputError(f"columns: there is no field {unknown!r}. The fields are {', '.join(FIELDS)}.")
    records = _renamed(read_records(path), columns or {}, path)
    names = _names(records)
    if group_by is not None and group_by not in names:
        raise InputError(f"group_by is {group_by}, and {path} has no such column; found {', '.join(names)}.")
    read = conversation_form(path, names, template)
    found, problems = [], []
    for record in records:
        try:
            turns = read(record) if template else _with_system(record, read(record))
            found.append(_conversation(record, turns, group_by))
        except InputError as error:
            problems.append(f"{record.place}: {error}")
    if problems:
        more = f" And {len(problems) - SHOWN} rows more." if len(problems) > SHOWN else ""
        raise InputError(f"{path}, " + " ".join(problems[:SHOWN]) + more)
    return found


def open_conversation(record: Record) -> Conversation:
    """A record's prompt, as a conversation that the assistant is to go on with.

    It stands under `messages`, which may end with an answer that is left out, `prompt`, `instruction` with `input` or
    one of the two, or `text`.

    Raises:
        InputError: there is none.
    """
    values = record.values
    if values.get("messages") is not None:
        messages = list(openai_turns(record).messages)
        while messages and messages[-1]["role"] == "assistant":
            messages.pop()
    elif isinstance(values.get("prompt"), list):
        messages = [message_of(turn, "role", "content") for turn in turns_of(record, "prompt")]
    else:
        names = (
            ("prompt",)
            if "prompt" in values
            else ("instruction", "input")
            if "instruction" in values or "input" in values
            else ("text",)
        )
        asked = [text_of(values[name], name) for name in names if values.get(name)]
        messages = [{"role": "user", "content": "\n".join(asked)}] if asked else []
    if not messages:
        raise InputError(f"there is no prompt, messages, instruction or text; found {', '.join(values)}.")
    return Conversation(record.place, tuple(messages), b"", joint="" if "prompt" in values else "\n")


def _names(records: Sequence[Record]) -> list[str]:
    """The columns of a file, of which a row of JSON may lack some."""
    return list(dict.fromkeys(name for record in records for name in record.values))


def _renamed(records: list[Record], columns: Mapping[str, str], path: Path) -> list[Record]:
    names = _names(records)
    for usual, name in columns.items():
        if name not in names:
            raise InputError(
                f"columns says that {usual} is called {name}, and {path} has no such column; found {', '.join(names)}."
            )
    usual_of = {name: usual for usual, name in columns.items()}
    return [
        record._replace(
            values={
                usual_of.get(name, name): value
                for name, value in record.values.items()
                if name in usual_of or name not in columns
            }
        )
        for record in records
    ]


def _with_system(record: Record, read: Turns) -> Turns:
    """The turns with the column `system` before them, unless they begin with a system turn."""
    system = record.values.get("system")
    if is_blank(system) or any(message["role"] == "system" for message in read.messages[:1]):
        return read
    return replace(read, messages=[{"role": "system", "content": text_of(system, "system")}, *read.messages])


def _conversation(record: Record, read: Turns, group_by: str | None) -> Conversation:
    messages = list(read.messages)
    while messages and messages[-1]["role"] != "assistant":
        messages.pop()
    answers = [message for message in messages if message["role"] == "assistant"]
    if not answers:
        raise InputError("nobody answers: there is no turn of the assistant to learn.")
    if not all(answer["content"].strip() or answer.get("tool_calls") for answer in answers):
        raise InputError(
            f"{'the' if len(answers) == 1 else 'an'} answer is empty. Write one, or take the row out."
        )
    if not any(answer.get("weight", 1) for answer in answers):
        raise InputError("every answer has the weight 0, so there is nothing to learn. Take the row out.")
    key = (
        record.values.get(group_by)
        if group_by
        else next(
            (message["content"] for message in messages if message["role"] == "user"), messages[0]["content"]
        )
    )
    group = hashlib.blake2b("".join(str(key).split()).encode()).digest()
    return Conversation(record.place, tuple(messages), group, read.joint, tools_of(record))
