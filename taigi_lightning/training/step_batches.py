"""A batch of a training step: what is counted of it, what its loss weighs, what seeds its dropout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from taigi_lightning.fast_path.apply import expect_state
from taigi_lightning.fast_path.attention import find_documents
from taigi_lightning.internals import batches_taken, run_seed
from taigi_lightning.planning.memory import coming_state_bytes
from taigi_lightning.tasks.prompts import IGNORE


def counted(batch: Any) -> Any:
    """A batch with its supervised tokens counted and its documents found, while it is on the CPU: on a GPU both wait.

    Args:
        batch: `labels` and `position_ids`, [B, T] int64 on the CPU, and more; anything else is given back as it is.
    """
    if not isinstance(batch, dict) or "labels" not in batch:
        return batch
    supervised = int((batch["labels"][:, 1:] != IGNORE).sum())
    return {**batch, "supervised_tokens": supervised, "documents": find_documents(batch["position_ids"])}


def batch_tokens(batch: Any) -> int:
    """Tokens that a batch puts through the model, padding included; 0 of a batch of questions or of a loader's own."""
    ids = batch.get("input_ids") if isinstance(batch, dict) else None
    return int(ids.numel()) if ids is not None else 0


def share_of_window(loss: Tensor, batch: Mapping[str, Any], accumulated: int, ranks: int) -> Tensor:
    """A micro-batch's share of its window's mean loss, as far as Lightning and DDP do not make it so themselves.

    Args:
        loss: summed over the supervised tokens, scalar in nats.
        batch: with the window's supervised tokens over all ranks as `window_tokens`, or its own alone.
        accumulated: micro-batches of a full window.
        ranks: processes, over whose gradients DDP averages.

    Returns:
        scalar in nats a token; of a window's micro-batches without `window_tokens`, each weighs the same.
    """
    if "window_tokens" in batch:
        share: Tensor = loss * (ranks / max(1, batch["window_tokens"]))
    else:
        share = loss / (max(1, batch["supervised_tokens"]) * accumulated)
    return share


def begin_batch(trainer: pl.Trainer, model: torch.nn.Module, rank: int) -> None:
    """Seed dropout from the run's seed, the rank and batch number alone; say what memory is still to be taken.

    So a resumed run draws what the unbroken one drew, however often either validated in between.
    """
    torch.manual_seed(((run_seed() or 0) * 1_000_003 + rank) * 1_000_003 + batches_taken(trainer))
    expect_state(model, sum(map(coming_state_bytes, trainer.optimizers)))
