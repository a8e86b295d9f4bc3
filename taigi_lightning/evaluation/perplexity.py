"""Held-out perplexity per character, which models with different tokenizers can be compared by."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from taigi_lightning.data.tokenized_corpus import corpus_files
from taigi_lightning.errors import InputError
from taigi_lightning.fast_path.apply import device_of, forward_hidden
from taigi_lightning.fast_path.cross_entropy import linear_cross_entropy_sum
from taigi_lightning.fast_path.output_head import output_head
from taigi_lightning.tasks.prompts import IGNORE, encode_text


def held_out_texts(corpus: Path) -> list[str]:
    """The validation split of a cleaned corpus.

    Raises:
        InputError: there is no such corpus or split, or the split is empty.
    """
    files = corpus_files(corpus, "validation")
    texts = [text for file in files for text in pq.read_table(file, columns=["text"])["text"].to_pylist()]
    if not any(texts):
        raise InputError(
            f"The validation split of {corpus} is empty. Clean a larger corpus, or leave it out."
        )
    return texts


@torch.no_grad()
def perplexity_per_character(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    max_length: int = 2048,
    batch_tokens: int = 16384,
) -> float:
    """exp of the mean negative log-likelihood of a character, comparable across tokenizers.

    Every token of every text is predicted, after BOS or, in a text longer than `max_length`, after what
    came before it in its window.

    Args:
        model: as for `answers.predict_batch`.
        tokenizer: the model's own.
        texts: one or more, not all of them empty.
        max_length: tokens in a window, BOS included.
        batch_tokens: tokens in one forward pass, padding included.
    """
    total = 0.0
    head = output_head(model)
    device = device_of(model)
    for input_ids, labels in windows(tokenizer, texts, max_length, batch_tokens):
        positions = torch.arange(input_ids.shape[1], device=device).expand_as(input_ids)
        hidden = forward_hidden(model, input_ids.to(device), positions)
        total += float(linear_cross_entropy_sum(hidden, head, labels.to(device)))
    return math.exp(total / sum(map(len, texts)))


def windows(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int, batch_tokens: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Texts as batches of windows that begin with BOS, the longest first.

    Yields:
        `input_ids` and unshifted `labels`, [B, T] int64, right-padded; -100 under BOS and padding.
    """
    begin = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    step = max_length - 1
    waiting: list[list[int]] = []
    for ids in encode_text(tokenizer, list(texts)):
        own = ids[1:] if ids[:1] == [begin] else ids
        waiting += [[begin, *own[start : start + step]] for start in range(0, len(own), step)]
    waiting.sort(key=len, reverse=True)
    while waiting:
        width = len(waiting[0])
        count = max(1, batch_tokens // width)
        rows, waiting = waiting[:count], waiting[count:]
        input_ids = torch.zeros(len(rows), width, dtype=torch.int64)
        labels = torch.full_like(input_ids, IGNORE)
        for row, window in enumerate(rows):
            input_ids[row, : len(window)] = torch.tensor(window)
            labels[row, 1 : len(window)] = torch.tensor(window[1:])
        yield input_ids, labels
