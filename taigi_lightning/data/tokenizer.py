"""The tokenizer that data are encoded with."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from transformers import PreTrainedTokenizerBase

from taigi_lightning.model.base_model import load_tokenizer


def tokenizer_for(data: pl.LightningDataModule, base: str) -> PreTrainedTokenizerBase:
    """The base's tokenizer; with the new tokens of the model that the data are for, where its trainer has such a one.

    Args:
        data: with or without a trainer.
        base: a model's folder or Hub name.

    Raises:
        InputError: there is no such tokenizer, or it cannot take the tokens.
    """
    module: Any = getattr(data.trainer, "lightning_module", None)
    vocabulary: Any = getattr(module, "vocabulary", None)
    if vocabulary is None or not vocabulary.extended:
        return load_tokenizer(base)
    extended: PreTrainedTokenizerBase = module.tokenizer
    return extended
