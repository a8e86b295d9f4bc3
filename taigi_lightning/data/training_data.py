"""What each stage trains on: the cleaned corpus, and the questions with their answers."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
from jsonargparse.typing import NonNegativeInt, PositiveInt
from transformers import PreTrainedTokenizerBase

from taigi_lightning.data.dataloader import EpochBatches, ResumableLoader
from taigi_lightning.data.packing import Blocks, pack_documents, separate_documents
from taigi_lightning.data.predict import encode_questions, question_loader
from taigi_lightning.data.tokenized_corpus import corpus_files, tokenize_corpus
from taigi_lightning.errors import InputError
from taigi_lightning.model.base_model import load_tokenizer
from taigi_lightning.tasks.prompts import Supervise, encode_example
from taigi_lightning.tasks.question_batches import EncodedQuestion, plan_batches
from taigi_lightning.tasks.questions import Question, read_questions
from taigi_lightning.tasks.validation_split import passage_key, split_by_passage

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Split:
    """One split, ready for a loader, and what it holds.

    `documents` counts documents or examples, as `unit` says, and `cut` those too long for a row: documents
    divided into pieces, or examples whose passage was shortened. `characters` is the length of the texts or
    passages before encoding.
    """

    blocks: Blocks
    unit: str
    documents: int
    cut: int
    characters: int

    def __str__(self) -> str:
        packing = self.blocks.packing
        cut = f" ({self.cut:,} cut to fit)" if self.cut else ""
        padding = f", {packing.padding_share:.1%} padding" if packing.width else ""
        return (
            f"{self.documents:,} {self.unit}{cut} in {len(packing):,} rows: "
            f"{packing.lengths.sum():,} tokens, {self.blocks.supervised_tokens:,} of them supervised{padding}"
        )


class _TrainingData(pl.LightningDataModule):
    """Loaders over a training split and, perhaps, a validation split."""

    def __init__(self, source: str, batch_size: int, num_workers: int) -> None:
        super().__init__()
        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size}. Set it to 1 or more.")
        self.source = source  # recorded with the trained model
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.splits: dict[str, Split] = {}

    def summary(self) -> str:
        """What is trained and validated on, one line a split; empty before `setup`."""
        return "\n".join(f"{name}: {split}" for name, split in self.splits.items())

    def train_dataloader(self) -> ResumableLoader:
        """This rank's share of the rows, shuffled anew each epoch by the seed of `seed_everything`."""
        seed: int | None = int(os.environ.get("PL_GLOBAL_SEED", "0"))
        progress = None
        if self.trainer is not None:
            progress = self.trainer.fit_loop.epoch_loop.batch_progress
            if self.trainer.overfit_batches:  # type: ignore[attr-defined]
                seed = None
        return self._loader("train", seed, progress)

    def val_dataloader(self) -> list[Any]:
        """This rank's share of the held-out rows, in their own order; none where nothing is held out."""
        return [self._loader("validation", None)] if "validation" in self.splits else []

    def _loader(self, name: str, seed: int | None, progress: Any = None) -> ResumableLoader:
        blocks = self.splits[name].blocks
        rank, ranks = self._share()
        sampler = EpochBatches(len(blocks), self.batch_size, seed=seed, rank=rank, ranks=ranks)
        return ResumableLoader(blocks, sampler, num_workers=self.num_workers, progress=progress)

    def _share(self) -> tuple[int, int]:
        """Which share of the data is this process's, and of how many."""
        # The strategy knows: where a model is spread over several processes, these share their batches.
        sharing = self.trainer.distributed_sampler_kwargs if self.trainer else None
        return (sharing["rank"], sharing["num_replicas"]) if sharing else (0, 1)


class CPTDataModule(_TrainingData):
    """The cleaned corpus, for continued pre-training on every token.

    A batch holds `input_ids`, `labels` and `position_ids`, each [batch_size, max_length] int64 with packing,
    and as long as the longest row without. Each document's first token and padding have the label -100.

    Args:
        data_dir: the folder that `corpus_tools clean` made.
        tokenizer: the base model's folder or Hub name.
        batch_size: rows in a micro-batch.
        max_length: tokens in a row; a longer document goes on in another row.
        packing: fill each row with several documents, each of which attends only to itself.
        validation_split: the split to validate on, or null.
        num_workers: processes that prepare batches; 0 is enough, a batch takes less than 1 ms.
        cache_dir: where token ids are kept; null means the cache of the library datasets.

    Raises:
        InputError: batch_size is below 1; in `setup`, a split is missing or empty.
    """

    def __init__(
        self,
        data_dir: str = "data/cpt_corpus",
        tokenizer: str = "Bohanlu/Taigi-Llama-2-13B",
        batch_size: PositiveInt = 4,
        max_length: PositiveInt = 2048,
        packing: bool = True,
        validation_split: str | None = "validation",
        num_workers: NonNegativeInt = 0,
        cache_dir: str | None = None,
    ) -> None:
        super().__init__(data_dir, batch_size, num_workers)
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.packing = packing
        self.validation_split = validation_split
        self.cache_dir = Path(cache_dir) if cache_dir else None

    def prepare_data(self) -> None:
        """Encode what the trainer's stage reads of the corpus, before the other processes look for it.

        Raises:
            InputError: the folder or one of the stage's splits is missing or empty.
        """
        stage = (self.trainer and self.trainer.state.fn) or "fit"
        files = [corpus_files(Path(self.source), split) for split in self._split_names(stage).values()]
        tokenizer = load_tokenizer(self.tokenizer)
        for split_files in files:
            tokenize_corpus(split_files, tokenizer, self.cache_dir)

    def setup(self, stage: str) -> None:
        """Load the encoded splits and pack them.

        Raises:
            InputError: the folder or a split is missing or empty.
        """
        tokenizer = load_tokenizer(self.tokenizer)
        for name, split in self._split_names(stage).items():
            files = corpus_files(Path(self.source), split)
            corpus = tokenize_corpus(files, tokenizer, self.cache_dir)
            arrange = pack_documents if self.packing else separate_documents
            packing = arrange(corpus.lengths, self.max_length)
            blocks = Blocks(corpus.tokens, corpus.tokens, packing, int(tokenizer.pad_token_id))
            self.splits[name] = Split(
                blocks, "documents", len(corpus.lengths), packing.cut, corpus.characters
            )

    def _split_names(self, stage: str) -> dict[str, str]:
        names = {"train": "train"} if stage == "fit" else {}
        if stage in ("fit", "validate") and self.validation_split:
            names["validation"] = self.validation_split
        return names


class SFTDataModule(_TrainingData):
    """Questions with their answers, for supervised fine-tuning.

    A training batch holds `input_ids`, `labels` and `position_ids`, each [batch_size, T] int64, where T is the
    longest example, or max_length with packing. Labels outside the answer and its EOS are -100.

    Args:
        train_file: CSV, JSON lines or Parquet with 文章, 問題, 選項1-4 and 正確答案.
        tokenizer: the base model's folder or Hub name.
        columns: other column names, such as `{passage: context}`.
        supervise: train on the answer and EOS, or on everything; validation is always on the answer.
        validation_fraction: the share of the questions to hold out, by whole passages.
        validation_file: questions to validate on, instead of holding some out.
        batch_size: rows in a micro-batch.
        max_length: tokens of an example; a longer one loses the middle of its passage.
        packing: put several examples into each row of max_length tokens, which then is what a batch counts.
        num_workers: processes that prepare batches.

    Raises:
        InputError: a number is out of its range; in `setup`, a file or one of its rows cannot be used.
    """

    def __init__(
        self,
        train_file: str = "data/AI_conv.csv",
        tokenizer: str = "models/cpt_model",
        columns: Mapping[str, str] | None = None,
        supervise: Supervise = "answer",
        validation_fraction: float = 0.05,
        validation_file: str | None = None,
        batch_size: PositiveInt = 4,
        max_length: PositiveInt = 2048,
        packing: bool = False,
        num_workers: NonNegativeInt = 0,
    ) -> None:
        super().__init__(train_file, batch_size, num_workers)
        if not 0 <= validation_fraction < 1:
            raise InputError(
                f"validation_fraction is {validation_fraction}. Set it to 0 or more and below 1."
            )
        self.tokenizer = tokenizer
        self.columns = columns
        self.supervise: Supervise = supervise
        self.validation_fraction = validation_fraction
        self.validation_file = validation_file
        self.max_length = max_length
        self.packing = packing
        self.held_out: list[EncodedQuestion] = []
        self.held_out_questions: list[Question] = []  # the same, as text

    def setup(self, stage: str) -> None:
        """Read, split and encode the questions.

        Raises:
            InputError: a file or one of its rows cannot be used.
        """
        train = [] if self.validation_file and stage != "fit" else self._read(self.source)
        if self.validation_file:
            held_out = self._read(self.validation_file)
            known = {passage_key(question) for question in train}
            if shared := sum(passage_key(question) in known for question in held_out):
                logger.warning(
                    "%s: %d questions have a passage of the training file", self.validation_file, shared
                )
        else:
            train, held_out = split_by_passage(train, self.validation_fraction)
        tokenizer = load_tokenizer(self.tokenizer)
        if stage == "fit":
            self.splits["train"] = self._encode(tokenizer, train, self.supervise)
        if held_out:
            self.splits["validation"] = self._encode(tokenizer, held_out, "answer")
            self.held_out = encode_questions(tokenizer, held_out, self.max_length)
            self.held_out_questions = held_out

    def val_dataloader(self) -> list[Any]:
        """Loaders of the held-out examples, for their loss, and of the same as questions, for accuracy."""
        if not self.held_out:
            return []
        rank, ranks = self._share()
        batches = plan_batches(self.held_out, self.batch_size * self.max_length)[rank::ranks]
        return [*super().val_dataloader(), question_loader(batches)]

    def _read(self, path: str) -> list[Question]:
        return read_questions(path, self.columns, need_answers=True, unique_ids=False)

    def _encode(
        self, tokenizer: PreTrainedTokenizerBase, questions: list[Question], supervise: Supervise
    ) -> Split:
        examples = [encode_example(tokenizer, question, self.max_length, supervise) for question in questions]
        tokens = np.concatenate([np.asarray(example.input_ids, dtype=np.int32) for example in examples])
        labels = np.concatenate([np.asarray(example.labels, dtype=np.int32) for example in examples])
        lengths = np.array([len(example.input_ids) for example in examples], dtype=np.int64)
        arrange = pack_documents if self.packing else separate_documents
        blocks = Blocks(tokens, labels, arrange(lengths, self.max_length), int(tokenizer.pad_token_id))
        cut = sum(example.cut_characters > 0 for example in examples)
        return Split(
            blocks, "examples", len(examples), cut, sum(len(question.passage) for question in questions)
        )
