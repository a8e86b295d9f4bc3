"""Questions to answer: read, encoded with their answers, and batched so that each is computed once."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import lightning.pytorch as pl
from jsonargparse.typing import PositiveInt
from torch.utils.data import DataLoader, IterableDataset
from transformers import PreTrainedTokenizerBase

from taigi_lightning.data.in_memory import QuestionSource, questions_path
from taigi_lightning.data.tokenizer import tokenizer_for
from taigi_lightning.errors import InputError
from taigi_lightning.tasks.prompts import encode_prompt
from taigi_lightning.tasks.question_batches import EncodedQuestion, QuestionBatch, plan_batches
from taigi_lightning.tasks.question_prompt import FOUR_CHOICE, QuestionPrompt, question_prompt
from taigi_lightning.tasks.questions import Question, read_questions, rotate_options

logger = logging.getLogger(__name__)


class PredictDataModule(pl.LightningDataModule):
    """Questions for `predict` and, where their answers are known, for `test`.

    A batch is a `QuestionBatch`: token ids of any lengths, of which the model makes what it computes with.

    Args:
        questions: the file to read; from Python also a table of them.
        tokenizer: the model's folder or Hub name.
        columns: names of columns that have other names than usual (see `questions.read_questions`).
        max_length: longest prompt and answer in tokens; longer passages are cut, never the rest.
        batch_tokens: tokens in one forward pass, padding included.
        share_passages: compute a passage once for all its questions.
        average_orders: show the options in as many orders as there are and average the probabilities; `test` then also
            tells whether answers follow the option or the position.
        chat_template: ask in the tokenizer's own chat template, as the adapter was trained to answer.
        prompt: how a question is written out, how many options it has and what its answers are called.

    Raises:
        InputError: in `setup`, the file or one of its rows cannot be used.
    """

    def __init__(
        self,
        questions: QuestionSource = Path("data/1001-question-v3.csv"),
        tokenizer: str = "Bohanlu/Taigi-Llama-2-13B",
        columns: Mapping[str, str] | None = None,
        max_length: PositiveInt = 2048,
        batch_tokens: PositiveInt = 16384,
        share_passages: bool = True,
        average_orders: bool = False,
        chat_template: bool = False,
        prompt: QuestionPrompt = QuestionPrompt(),  # noqa: B008  (it becomes the command line's default)
    ) -> None:
        super().__init__()
        self.path = Path(questions_path(questions))
        self.tokenizer = tokenizer
        self.columns = columns
        self.max_length = max_length
        self.batch_tokens = batch_tokens
        self.share_passages = share_passages
        self.prompt = question_prompt(prompt)
        self.rotations = tuple(range(self.prompt.options)) if average_orders else (0,)
        self.chat_template = chat_template
        self.encoded: list[EncodedQuestion] = []
        self.asked: list[Question] = []  # the same, as text
        # (row, rotation) of what an interrupted run has answered already; PredictionWriter fills it in.
        self.answered: frozenset[tuple[int, int]] = frozenset()

    def setup(self, stage: str) -> None:
        """Read and encode the questions; `test` needs their answers.

        Raises:
            InputError: the file or one of its rows cannot be used.
        """
        self.asked = read_questions(self.path, self.columns, need_answers=stage == "test", prompt=self.prompt)
        tokenizer = tokenizer_for(self, self.tokenizer)
        self.encoded = encode_questions(
            tokenizer,
            self.asked,
            self.max_length,
            self.rotations,
            chat_template=self.chat_template,
            style=self.prompt,
        )

    def predict_dataloader(self) -> DataLoader[QuestionBatch]:
        """This rank's batches, without the questions in `answered`."""
        return self._dataloader([q for q in self.encoded if (q.row, q.rotation) not in self.answered])

    def test_dataloader(self) -> DataLoader[QuestionBatch]:
        """This rank's batches of all questions."""
        return self._dataloader(self.encoded)

    def _dataloader(self, questions: Sequence[EncodedQuestion]) -> DataLoader[QuestionBatch]:
        """Every batch goes to exactly one rank; nothing is repeated to make the ranks even."""
        trainer = self.trainer
        rank, ranks = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        batches = plan_batches(questions, self.batch_tokens, share=self.share_passages)
        return question_loader(batches[rank::ranks])


def question_loader(batches: Sequence[QuestionBatch]) -> DataLoader[QuestionBatch]:
    """A loader of ready batches, each of them an item."""
    # Lightning warns of workers that would repeat an iterable data set; there are none here.
    warnings.filterwarnings("ignore", message="Your `IterableDataset` has `__len__` defined")
    return DataLoader(_Batches(batches), batch_size=None)


class _Batches(IterableDataset[QuestionBatch]):
    """Ready batches. Iterable, so that Lightning adds no sampler that would share them out again."""

    def __init__(self, batches: Sequence[QuestionBatch]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[QuestionBatch]:
        return iter(self.batches)

    def __len__(self) -> int:
        # Lightning skips a loop of length 0, and with it the hook that writes the predictions.
        return max(1, len(self.batches))


def encode_questions(
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[Question],
    max_length: int,
    rotations: Sequence[int] = (0,),
    examples: Sequence[Question] = (),
    chat_template: bool = False,
    style: QuestionPrompt = FOUR_CHOICE,
) -> list[EncodedQuestion]:
    """Encode each question's prompt and its answers.

    Args:
        tokenizer: the model's own.
        questions: in the input's order.
        max_length: longest prompt and answer in tokens; a longer passage is cut, which the log counts.
        rotations: orders of the options to show (see `EncodedQuestion`).
        examples: solved ones that stand before every question.
        chat_template: ask in the tokenizer's own chat template (see `prompts.encode_prompt`).
        style: how a question is written out.

    Returns:
        for each question in turn, one for each rotation.

    Raises:
        InputError: a question is too long without its passage, or its answers cannot be told apart.
    """
    encoded, cut = [], {}
    for question in questions:
        for rotation in rotations:
            shown = rotate_options(question, rotation)
            prompt = encode_prompt(tokenizer, shown, max_length, examples, chat_template, style)
            _check_answers(question, prompt.answers, style)
            encoded.append(
                EncodedQuestion(
                    question.row,
                    question.id,
                    prompt.input_ids,
                    prompt.answers,
                    question.answer,
                    rotation,
                    style.answers,
                )
            )
            if prompt.cut_characters:
                cut[question.id] = prompt.cut_characters
    if cut:
        logger.warning(
            "%d passage%s lost %d characters in the middle to fit into %d tokens: IDs %s",
            len(cut), "s" if len(cut) > 1 else "", sum(cut.values()), max_length, some_ids(list(cut)),
        )  # fmt: skip
    return encoded


def some_ids(ids: Sequence[str]) -> str:
    """IDs for a message, the first ten by name.

    >>> some_ids([str(n) for n in range(12)])
    '0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more'
    """
    more = f" and {len(ids) - 10} more" if len(ids) > 10 else ""
    return ", ".join(ids[:10]) + more


def _check_answers(question: Question, answers: Sequence[list[int]], style: QuestionPrompt) -> None:
    """Refuse answers of which one is another's beginning: their probabilities could not be compared."""
    ordered = sorted(answers)
    if any(longer[: len(shorter)] == shorter for shorter, longer in pairwise(ordered)):
        raise InputError(
            f"The tokenizer cannot tell the answers {style.answers[0]}-{style.answers[-1]} of question "
            f"{question.id} apart: their tokens are {list(answers)}. Use a tokenizer that knows these {style.labels}."
        )
