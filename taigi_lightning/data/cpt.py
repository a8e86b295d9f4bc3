"""The cleaned corpus, for continued pre-training on every token."""

from __future__ import annotations

import logging
from pathlib import Path

from jsonargparse.typing import NonNegativeInt, PositiveInt
from transformers import PreTrainedTokenizerBase

from taigi_lightning.data.in_memory import CorpusSource, corpus_path, has_split, weighted_paths
from taigi_lightning.data.packing import Blocks, pack_documents, separate_documents
from taigi_lightning.data.tokenized_corpus import check_template, corpus_files, tokenize_corpus
from taigi_lightning.data.tokenizer import tokenizer_for
from taigi_lightning.data.training_data import Split, TrainingData
from taigi_lightning.errors import InputError

logger = logging.getLogger(__name__)


class CPTDataModule(TrainingData):
    """The cleaned corpus, for continued pre-training on every token.

    A batch holds `input_ids`, `labels` and `position_ids`, each [batch_size, max_length] int64 with packing,
    and as long as the longest row without. Each document's first token and padding have the label -100.

    Args:
        data_dir: the folder that `corpus_tools clean` made; several with their shares of the rows, of which the first
            is read once an epoch: `{data/cpt_corpus: 0.8, data/replay: 0.2}`; from Python also a table with a
            column `text`, or tables by split.
        tokenizer: the base model's folder or Hub name.
        batch_size: rows in a micro-batch.
        max_length: tokens in a row; a longer document goes on in another row.
        packing: fill each row with several documents, each of which attends only to itself.
        validation_split: the split to validate on, or null.
        num_workers: processes that prepare batches; 0 is enough, a batch takes less than 1 ms.
        cache_dir: where token ids are kept; null means the cache of the library datasets.
        document: what a document is made of, columns in braces, such as "{title} {text}".

    Raises:
        InputError: batch_size is below 1; in `setup`, a split is missing or empty.
    """

    def __init__(
        self,
        data_dir: CorpusSource = "data/cpt_corpus",
        tokenizer: str = "Bohanlu/Taigi-Llama-2-13B",
        batch_size: PositiveInt = 4,
        max_length: PositiveInt = 2048,
        packing: bool = True,
        validation_split: str | None = "validation",
        num_workers: NonNegativeInt = 0,
        cache_dir: str | None = None,
        document: str = "{text}",
    ) -> None:
        sources = weighted_paths(data_dir, corpus_path)
        super().__init__(sources, batch_size, num_workers)
        if not isinstance(data_dir, str) and isinstance(sources, str) and validation_split:
            # One table: all of it is for training.
            validation_split = validation_split if has_split(sources, validation_split) else None
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.packing = packing
        self.validation_split = validation_split
        self.cache_dir = Path(cache_dir) if cache_dir else None
        self.document = document

    def prepare_data(self) -> None:
        """Encode what the trainer's stage reads of the corpus, before the other processes look for it.

        Raises:
            InputError: the folder or one of the stage's splits is missing or empty.
        """
        stage = (self.trainer and self.trainer.state.fn) or "fit"
        files = [
            files for split in self._split_names(stage).values() for files in self._files(split) if files
        ]
        for split_files in files:
            check_template(split_files, self.document)
        tokenizer = tokenizer_for(self, self.tokenizer)
        for split_files in files:
            tokenize_corpus(split_files, tokenizer, self.cache_dir, self.document)

    def setup(self, stage: str) -> None:
        """Load the encoded splits and pack them.

        Raises:
            InputError: the folder or a split is missing or empty.
        """
        tokenizer = tokenizer_for(self, self.tokenizer)
        for name, split in self._split_names(stage).items():
            self.set_splits(
                name,
                [None if files is None else self._read(files, tokenizer) for files in self._files(split)],
            )

    def _read(self, files: list[Path], tokenizer: PreTrainedTokenizerBase) -> Split:
        """One split of one source, encoded and packed."""
        corpus = tokenize_corpus(files, tokenizer, self.cache_dir, self.document)
        arrange = pack_documents if self.packing else separate_documents
        packing = arrange(corpus.lengths, self.max_length)
        blocks = Blocks(corpus.tokens, corpus.tokens, packing, int(tokenizer.pad_token_id))
        return Split(blocks, "documents", len(corpus.lengths), packing.cut, corpus.characters)

    def _files(self, split: str) -> list[list[Path] | None]:
        """Each source's files of a split; None where one of several has no validation split."""
        found: list[list[Path] | None] = []
        for source in self.sources:
            if (
                split != "train"
                and len(self.sources) > 1
                and Path(source).is_dir()
                and not has_split(source, split)
            ):
                logger.warning("%s has no %s split: it is not validated on.", source, split)
                found.append(None)
            else:
                found.append(corpus_files(Path(source), split))
        if not any(found):
            raise InputError(
                f"None of {self.source} has a {split} split. Set data.init_args.validation_split to null."
            )
        return found

    def _split_names(self, stage: str) -> dict[str, str]:
        names = {"train": "train"} if stage == "fit" else {}
        if stage in ("fit", "validate") and self.validation_split:
            names["validation"] = self.validation_split
        return names
