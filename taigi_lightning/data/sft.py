"""Questions with their answers, for supervised fine-tuning."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from jsonargparse.typing import NonNegativeInt, PositiveInt
from transformers import PreTrainedTokenizerBase

from taigi_lightning.data.in_memory import Source, TrainingSource, questions_path, weighted_paths
from taigi_lightning.data.predict import encode_questions, question_loader
from taigi_lightning.data.tokenizer import tokenizer_for
from taigi_lightning.data.training_data import Split, TrainingData, examples_split
from taigi_lightning.tasks.prompts import Supervise, encode_example
from taigi_lightning.tasks.question_batches import EncodedQuestion, plan_batches
from taigi_lightning.tasks.question_prompt import QuestionPrompt, question_prompt
from taigi_lightning.tasks.questions import Question, read_questions
from taigi_lightning.tasks.validation_split import check_fraction, passage_key, split_by_passage

logger = logging.getLogger(__name__)


class SFTDataModule(TrainingData):
    """Questions with their answers, for supervised fine-tuning.

    A training batch holds `input_ids`, `labels` and `position_ids`, each [batch_size, T] int64, where T is the
    longest example, or max_length with packing. Labels outside the answer and its EOS are -100.

    Args:
        train_file: CSV, JSON lines or Parquet with 文章, 問題, 選項1-4 and 正確答案; several with their shares of the
            rows, as `{a.csv: 0.5, b.csv: 0.5}`; from Python also a table of them.
        tokenizer: the base model's folder or Hub name.
        columns: other column names, such as `{passage: context}`.
        supervise: train on the answer and EOS, or on everything; validation is always on the answer.
        validation_fraction: the share of the questions to hold out, by whole passages.
        validation_file: questions to validate on, instead of holding some out.
        batch_size: rows in a micro-batch.
        max_length: tokens of an example; a longer one loses the middle of its passage.
        packing: put several examples into each row of max_length tokens, which then is what a batch counts.
        num_workers: processes that prepare batches.
        chat_template: ask and answer in the tokenizer's own chat template, for a base that was trained to chat.
        prompt: how a question is written out, how many options it has and what its answers are called.

    Raises:
        InputError: a number is out of its range; in `setup`, a file or one of its rows cannot be used.
    """

    def __init__(
        self,
        train_file: TrainingSource = "data/AI_conv.csv",
        tokenizer: str = "models/cpt_model",
        columns: Mapping[str, str] | None = None,
        supervise: Supervise = "answer",
        validation_fraction: float = 0.05,
        validation_file: Source | None = None,
        batch_size: PositiveInt = 4,
        max_length: PositiveInt = 2048,
        packing: bool = False,
        num_workers: NonNegativeInt = 0,
        chat_template: bool = False,
        prompt: QuestionPrompt = QuestionPrompt(),  # noqa: B008  (it becomes the command line's default)
    ) -> None:
        super().__init__(weighted_paths(train_file, questions_path), batch_size, num_workers)
        check_fraction(validation_fraction)
        self.tokenizer = tokenizer
        self.columns = columns
        self.supervise: Supervise = supervise
        self.validation_fraction = validation_fraction
        self.validation_file = None if validation_file is None else questions_path(validation_file)
        self.max_length = max_length
        self.packing = packing
        self.chat_template = chat_template
        self.prompt = question_prompt(prompt)
        self.held_out: list[EncodedQuestion] = []
        self.held_out_questions: list[Question] = []  # the same, as text

    def setup(self, stage: str) -> None:
        """Read, split and encode the questions.

        Raises:
            InputError: a file or one of its rows cannot be used.
        """
        unread = self.validation_file is not None and stage != "fit"
        read = [[] if unread else self._read(source) for source in self.sources]
        divided = [
            (train, []) if self.validation_file else split_by_passage(train, self.validation_fraction)
            for train in read
        ]
        held_out = [held for _, held in divided]
        tokenizer = tokenizer_for(self, self.tokenizer)
        if stage == "fit":
            self.set_splits("train", [self._encode(tokenizer, train, self.supervise) for train, _ in divided])
        if self.validation_file:
            held_out = [self._read_validation([question for train in read for question in train])]
            self.splits["validation"] = self._encode(tokenizer, held_out[0], "answer")
        else:
            self.set_splits(
                "validation", [self._encode(tokenizer, held, "answer") if held else None for held in held_out]
            )
        self.held_out_questions = [question for held in held_out for question in held]
        self.held_out = encode_questions(
            tokenizer,
            self.held_out_questions,
            self.max_length,
            chat_template=self.chat_template,
            style=self.prompt,
        )

    def _read_validation(self, train: list[Question]) -> list[Question]:
        assert self.validation_file is not None
        held_out = self._read(self.validation_file)
        known = {passage_key(question) for question in train}
        if shared := sum(passage_key(question) in known for question in held_out):
            logger.warning(
                "%s: %d questions have a passage of the training file", self.validation_file, shared
            )
        return held_out

    def val_dataloader(self) -> list[Any]:
        """Loaders of the held-out examples, for their loss, and of the same as questions, for accuracy."""
        if not self.held_out:
            return []
        rank, ranks = self._share()
        batches = plan_batches(self.held_out, self.batch_size * self.max_length)[rank::ranks]
        return [*super().val_dataloader(), question_loader(batches)]

    def _read(self, path: str) -> list[Question]:
        return read_questions(path, self.columns, need_answers=True, unique_ids=False, prompt=self.prompt)

    def _encode(
        self, tokenizer: PreTrainedTokenizerBase, questions: list[Question], supervise: Supervise
    ) -> Split:
        examples = [
            encode_example(tokenizer, question, self.max_length, supervise, self.chat_template, self.prompt)
            for question in questions
        ]
        characters = sum(len(question.passage) for question in questions)
        pad_id = int(tokenizer.pad_token_id)
        return examples_split(examples, pad_id, self.max_length, packing=self.packing, characters=characters)
