"""The tokenizer of a stage: its base's, with the new words that it trains or that its adapter brings."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedTokenizerBase

from taigi_lightning.errors import InputError
from taigi_lightning.model.adapters import LoraSettings
from taigi_lightning.model.base_model import brings_tokenizer, load_tokenizer
from taigi_lightning.model.new_tokens import NewTokens, Rows, extended_tokenizer
from taigi_lightning.model.token_rows import check_tables
from taigi_lightning.planning.new_words import read_words


class Vocabulary:
    """Which words a stage adds to its base's, as `model.new_tokens` says.

    Args:
        new_tokens: the setting, also as a dict of its fields; mostly None.
        lora: what trains beside them.
        adapter: a saved one that the stage goes on from or predicts with.

    Raises:
        InputError: no adapter trains beside which embeddings could, a saved one is to go on, which has its own tokens,
            or the words cannot be read.
    """

    def __init__(self, new_tokens: Any, lora: LoraSettings | None, adapter: str | None) -> None:
        settings = NewTokens(**new_tokens) if isinstance(new_tokens, dict) else new_tokens
        if settings is not None and adapter is not None:
            raise InputError(
                f"model.new_tokens adds words to a base, but {adapter} goes on with the tokens that it was trained "
                "with. Merge it first and give the merged model as --model.base, or leave new_tokens out."
            )
        if settings is not None and lora is None:
            raise InputError(
                "model.new_tokens trains embeddings beside LoRA, and no adapter trains here. Give --model.lora.r, or "
                "leave new_tokens out."
            )
        self.words = [] if settings is None else read_words(settings.tokens)
        rate = None if settings is None else settings.lr
        self.rate = (
            None if rate is None else float(rate)
        )  # not the command line's own kind, which no checkpoint holds
        self.adapter = adapter
        self._found: tuple[PreTrainedTokenizerBase, Rows] | None = None

    @property
    def extended(self) -> bool:
        """Whether the tokenizer is not the base's own."""
        return bool(self.words) or (self.adapter is not None and brings_tokenizer(self.adapter))

    def tokenizer(self, base: str) -> PreTrainedTokenizerBase:
        """The tokenizer, read once.

        Raises:
            InputError: the base has none, or it cannot take a word.
        """
        return self._read(base)[0]

    def rows(self, base: str) -> Rows:
        """What the embeddings of the words begin as: see `extended_tokenizer`."""
        return self._read(base)[1]

    def _read(self, base: str) -> tuple[PreTrainedTokenizerBase, Rows]:
        if self._found is None:
            if self.words:
                self._found = extended_tokenizer(base, self.words)
                check_tables(base, max(self._found[1]) + 1)
            else:
                self._found = load_tokenizer(base, self.adapter), {}
        return self._found
