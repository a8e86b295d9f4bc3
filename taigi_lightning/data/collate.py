"""Rows of different lengths → one batch of tensors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from taigi_lightning.data.packing import Row
from taigi_lightning.tasks.prompts import IGNORE


def pad_right(rows: Sequence[Row], pad_id: int, multiple_of: int = 1) -> dict[str, Tensor]:
    """Stack rows, padded on the right to the longest, for training.

    Args:
        rows: Dicts of `input_ids`, `labels`, `position_ids`, each [T_i] int64.
        pad_id: The padding token.
        multiple_of: Round the batch's length up to a multiple of this.

    Returns:
        `input_ids` padded with `pad_id`, `labels` with -100, and `position_ids` with 0, 1, 2, ..., as if the
        padding were a document of its own; each [B, T] int64.
    """
    longest = max(len(row["input_ids"]) for row in rows)
    width = -(-longest // multiple_of) * multiple_of
    input_ids = np.full((len(rows), width), pad_id, dtype=np.int64)
    labels = np.full((len(rows), width), IGNORE, dtype=np.int64)
    position_ids = np.empty((len(rows), width), dtype=np.int64)
    for i, row in enumerate(rows):
        length = len(row["input_ids"])
        input_ids[i, :length] = row["input_ids"]
        labels[i, :length] = row["labels"]
        position_ids[i, :length] = row["position_ids"]
        position_ids[i, length:] = np.arange(width - length)
    return {
        "input_ids": torch.from_numpy(input_ids),
        "labels": torch.from_numpy(labels),
        "position_ids": torch.from_numpy(position_ids),
    }


def pad_left(prompts: Sequence[Sequence[int]], pad_id: int) -> dict[str, Tensor]:
    """Stack prompts, padded on the left so that all end in the last column, for generation.

    Args:
        prompts: Token ids of each prompt, none empty.
        pad_id: The padding token.

    Returns:
        `input_ids` and `attention_mask` (0 on padding), each [B, T] int64.
    """
    width = max(map(len, prompts))
    input_ids = torch.full((len(prompts), width), pad_id, dtype=torch.int64)
    attention_mask = torch.zeros_like(input_ids)
    for i, prompt in enumerate(prompts):
        input_ids[i, width - len(prompt) :] = torch.tensor(prompt, dtype=torch.int64)
        attention_mask[i, width - len(prompt) :] = 1
    return {"input_ids": input_ids, "attention_mask": attention_mask}
