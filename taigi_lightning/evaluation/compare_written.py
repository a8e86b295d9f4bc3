"""What several models write for the same conversations, rendered as in training, scored against their own answers."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from transformers import PreTrainedTokenizerBase

from taigi_lightning.atomic_write import write_text
from taigi_lightning.errors import InputError
from taigi_lightning.evaluation.generation import Sampling, TextWriter
from taigi_lightning.evaluation.text_scores import WRITTEN, TextScore, paired_p_values, score_texts
from taigi_lightning.model.base_model import load_tokenizer
from taigi_lightning.model.text_model import text_model_class
from taigi_lightning.tasks.conversation_forms import FORMS, InstructionTemplate
from taigi_lightning.tasks.conversation_tokens import encode_conversation_example
from taigi_lightning.tasks.conversations import Conversation, read_conversations
from taigi_lightning.tasks.prompts import IGNORE, Example
from taigi_lightning.tasks.record_files import RECORD_FORMATS, read_records

logger = logging.getLogger(__name__)

UseTemplate = bool | Literal["auto"]


class WrittenRow(NamedTuple):
    """One model's written answers.

    Args:
        model: what the table calls it.
        total: how many answers.
        scores: chrF, BLEU and exact match.
        p_values: of chrF and BLEU, by paired bootstrap against the first model; None for that one.
        seconds: wall-clock time of the answers.
    """

    model: str
    total: int
    scores: tuple[TextScore, ...]
    p_values: Mapping[str, float] | None
    seconds: float


@dataclass(frozen=True)
class WrittenTask:
    """Conversations whose last answers models are to write.

    Args:
        conversations: with their answers.
        max_length: tokens of a conversation with its answer; a longer one is cut as in training.
        max_new_tokens: where an answer that does not end by itself is cut.
        batch_tokens: tokens of the prompts and answers that are written at once.
        chat_template: use the tokenizer's own; auto does where it has one, as `InstructionDataModule` does.
    """

    conversations: tuple[Conversation, ...]
    max_length: int
    max_new_tokens: int
    batch_tokens: int
    chat_template: UseTemplate = "auto"

    @property
    def references(self) -> list[str]:
        """What each answer should be."""
        return [str(conversation.messages[-1]["content"]) for conversation in self.conversations]


def holds_conversations(path: Path) -> bool:
    """Whether a file is instruction data, not four-choice questions, by its columns."""
    if not path.is_file() or not path.name.lower().endswith(RECORD_FORMATS):
        return False
    names = list(read_records(path)[0].values)
    if any(name.casefold().startswith(("選項", "option")) for name in names):
        return False
    return any(all(any(n in names for n in one.split("|")) for one in needed) for needed in FORMS)


def check_alone(given: Mapping[str, object]) -> None:
    """Refuse options that mean something for four-choice questions alone, where there are none.

    Raises:
        InputError: one is given.
    """
    if found := [name for name, value in given.items() if value is not None]:
        raise InputError(
            f"--{found[0]} belongs to four-choice questions, and the file to compare on is instruction data. Leave it "
            "out, or give questions and the instruction data as --written."
        )


def read_task(
    path: Path,
    columns: Mapping[str, str] | None,
    template: InstructionTemplate | None,
    chat_template: UseTemplate,
    **sizes: int,
) -> WrittenTask:
    """Read the conversations; those that end with a call of a tool have no text to compare and are left out, aloud.

    Raises:
        InputError: the file or a row cannot be used, or none is left.
    """
    read = read_conversations(path, columns, template)
    kept = tuple(one for one in read if str(one.messages[-1]["content"]).strip())
    if len(kept) < len(read):
        logger.warning("%s: %d conversations end with no text and are left out", path, len(read) - len(kept))
    if not kept:
        raise InputError(f"{path} holds no conversation that ends with a text of the assistant's.")
    return WrittenTask(kept, chat_template=chat_template, **sizes)


def encode_task(tokenizer: PreTrainedTokenizerBase, task: WrittenTask) -> list[list[int]]:
    """Each conversation's ids up to its last answer: those of a training example, to where its last labels begin.

    Raises:
        InputError: an answer alone is longer than `max_length`, or the chat template does not take a conversation.
    """
    chat = uses_template(tokenizer, task)
    found = []
    for conversation in task.conversations:
        example = encode_conversation_example(tokenizer, conversation, task.max_length, chat)
        if example is None:
            raise InputError(
                f"{conversation.place}: its answer alone is longer than {task.max_length} tokens. Raise --max_length, "
                "or take the row out."
            )
        found.append(example.input_ids[: _last_answer(example)])
    return found


def check_task(name: str, base: str, task: WrittenTask) -> None:
    """Refuse conversations that a model cannot be given, before it is loaded.

    Raises:
        InputError: as `encode_task`; or a prompt leaves no place for an answer.
    """
    prompts = encode_task(load_tokenizer(base), task)
    places = getattr(text_model_class(base)[1], "max_position_embeddings", None)
    longest = max(map(len, prompts)) + task.max_new_tokens
    if places is not None and longest > places:
        raise InputError(
            f"The longest prompt and max_new_tokens={task.max_new_tokens} are {longest} tokens, and {name} reads "
            f"{places}. Lower --max_length or --max_new_tokens."
        )


def uses_template(tokenizer: PreTrainedTokenizerBase, task: WrittenTask) -> bool:
    """Whether the task is asked in the tokenizer's chat template."""
    there = bool(getattr(tokenizer, "chat_template", None))
    return there if task.chat_template == "auto" else task.chat_template


def _last_answer(example: Example) -> int:
    """Where the last labels of an example begin."""
    place = len(example.labels)
    while place and example.labels[place - 1] == IGNORE:
        place -= 1
    while place and example.labels[place - 1] != IGNORE:
        place -= 1
    return place


def write_task(
    name: str, model: Any, tokenizer: PreTrainedTokenizerBase, task: WrittenTask, folder: Path
) -> tuple[list[str], WrittenRow]:
    """Let a model write all answers greedily, keep them in `folder/NAME-written.jsonl`, and score them."""
    began = time.perf_counter()
    prompts = encode_task(tokenizer, task)
    sampling = Sampling(max_new_tokens=task.max_new_tokens, temperature=0.0)
    writer = TextWriter(model, tokenizer, sampling, chat=uses_template(tokenizer, task))
    texts = [""] * len(prompts)
    for batch in _batches(prompts, task):
        for place, written in zip(batch, writer.write([prompts[place] for place in batch]), strict=True):
            texts[place] = written.text
    rows = [
        json.dumps({"place": one.place, "reference": wanted, WRITTEN: text}, ensure_ascii=False) + "\n"
        for one, wanted, text in zip(task.conversations, task.references, texts, strict=True)
    ]
    write_text(folder / f"{name}-written.jsonl", "".join(rows))
    scores = tuple(score_texts(texts, task.references))
    return texts, WrittenRow(name, len(texts), scores, None, time.perf_counter() - began)


def _batches(prompts: Sequence[Sequence[int]], task: WrittenTask) -> Iterator[list[int]]:
    """Places of prompts to go on with at once, alike in length; at least one."""
    batch: list[int] = []
    for place in sorted(range(len(prompts)), key=lambda place: len(prompts[place])):
        if batch and (len(prompts[place]) + task.max_new_tokens) * (len(batch) + 1) > task.batch_tokens:
            yield batch
            batch = []
        batch.append(place)
    yield batch


def against_first(
    found: Sequence[tuple[list[str], WrittenRow]], references: Sequence[str]
) -> list[WrittenRow]:
    """The rows of all models, each but the first tested against the first."""
    first = found[0][0]
    return [
        row if number == 0 else row._replace(p_values=paired_p_values(first, texts, references))
        for number, (texts, row) in enumerate(found)
    ]
