"""Conversations and other instruction data, for supervised fine-tuning on what the assistant says."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Literal

from jsonargparse.typing import NonNegativeInt, PositiveInt
from transformers import PreTrainedTokenizerBase

from taigi_lightning.data.in_memory import Source, TrainingSource, questions_path, weighted_paths
from taigi_lightning.data.tokenizer import tokenizer_for
from taigi_lightning.data.training_data import Split, TrainingData, examples_split
from taigi_lightning.errors import InputError
from taigi_lightning.tasks.conversation_forms import InstructionTemplate
from taigi_lightning.tasks.conversation_tokens import encode_conversation_example
from taigi_lightning.tasks.conversations import Conversation, read_conversations
from taigi_lightning.tasks.validation_split import check_fraction, split_by_group

logger = logging.getLogger(__name__)


class InstructionDataModule(TrainingData):
    """Conversations and other instruction data, for supervised fine-tuning on what the assistant says.

    A file may hold messages (OpenAI's or ShareGPT's), Alpaca's columns, or prompt and completion, which is known by its
    columns; a `template` makes conversations of any other columns, of translation pairs say. A training batch holds
    `input_ids`, `labels` and `position_ids`, each [batch_size, T] int64; labels outside the assistant's turns, and what
    ends them, are -100.

    Args:
        train_file: JSON lines, a JSON list, CSV or Parquet; several with their shares of the rows, as
            `{chat.jsonl: 0.7, translation.csv: 0.3}`; from Python also a table.
        tokenizer: the base model's folder or Hub name.
        columns: other column names, such as `{prompt: question}`.
        template: what to make of each file's columns instead, as `{user: "{mandarin}", assistant: "{taigi}"}`.
        group_by: a column whose values stay together when a part is held out; null: equal first questions do.
        validation_fraction: the share of the conversations to hold out, by whole groups.
        validation_file: conversations to validate on, instead of holding some out.
        batch_size: rows in a micro-batch.
        max_length: tokens of a row; a longer conversation loses its oldest exchanges, then the middle of its question.
        packing: put several conversations into each row of max_length tokens, each of which attends only to itself.
        num_workers: processes that prepare batches.
        chat_template: use the tokenizer's own chat template; auto does where it has one.

    Raises:
        InputError: a number is out of its range; in `setup`, a file or one of its rows cannot be used.
    """

    def __init__(
        self,
        train_file: TrainingSource = "data/instructions.jsonl",
        tokenizer: str = "models/cpt_model",
        columns: Mapping[str, str] | None = None,
        template: InstructionTemplate | None = None,
        group_by: str | None = None,
        validation_fraction: float = 0.05,
        validation_file: Source | None = None,
        batch_size: PositiveInt = 4,
        max_length: PositiveInt = 2048,
        packing: bool = True,
        num_workers: NonNegativeInt = 0,
        chat_template: bool | Literal["auto"] = "auto",
    ) -> None:
        super().__init__(weighted_paths(train_file, questions_path), batch_size, num_workers)
        check_fraction(validation_fraction)
        self.tokenizer = tokenizer
        self.columns = columns
        self.template = template
        self.group_by = group_by
        self.validation_fraction = validation_fraction
        self.validation_file = None if validation_file is None else questions_path(validation_file)
        self.max_length = max_length
        self.packing = packing
        self.chat_template = chat_template

    def setup(self, stage: str) -> None:
        """Read, divide and encode the conversations.

        Raises:
            InputError: a file or one of its rows cannot be used, or no conversation fits into max_length.
        """
        unread = self.validation_file is not None and stage != "fit"
        read = [[] if unread else self._read(source) for source in self.sources]
        divided = [(rows, []) if self.validation_file else self._divide(rows) for rows in read]
        tokenizer = tokenizer_for(self, self.tokenizer)
        if stage == "fit":
            trained = zip(self.sources, divided, strict=True)
            self.set_splits("train", [self._encode(tokenizer, rows, source) for source, (rows, _) in trained])
        if self.validation_file:
            rows = self._read(self.validation_file)
            known = {row.group for conversations in read for row in conversations}
            if shared := sum(row.group in known for row in rows):
                logger.warning(
                    "%s: %d conversations are of a group of the training file", self.validation_file, shared
                )
            self.splits["validation"] = self._encode(tokenizer, rows, self.validation_file)
        else:
            held_out = zip(self.sources, divided, strict=True)
            self.set_splits(
                "validation",
                [self._encode(tokenizer, rows, source) if rows else None for source, (_, rows) in held_out],
            )

    def _read(self, path: str) -> list[Conversation]:
        return read_conversations(path, self.columns, self.template, self.group_by)

    def _divide(self, rows: list[Conversation]) -> tuple[list[Conversation], list[Conversation]]:
        groups = [row.group for row in rows]
        return split_by_group(rows, groups, self.validation_fraction, "conversations are of one group")

    def _encode(self, tokenizer: PreTrainedTokenizerBase, rows: list[Conversation], source: str) -> Split:
        chat = (
            bool(getattr(tokenizer, "chat_template", None))
            if self.chat_template == "auto"
            else self.chat_template
        )
        found = [encode_conversation_example(tokenizer, row, self.max_length, chat) for row in rows]
        examples = [example for example in found if example is not None]
        if not examples:
            raise InputError(
                f"No conversation of {source} fits into max_length={self.max_length} tokens: their answers alone are "
                "longer. Raise --data.init_args.max_length."
            )
        return examples_split(
            examples,
            int(tokenizer.pad_token_id),
            self.max_length,
            packing=self.packing,
            characters=sum(row.characters for row in rows),
            left_out=len(found) - len(examples),
        )
