"""A batch of a training step: what is counted of it, what its loss weighs, what seeds its dropout."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from taigi_lightning.errors import InputError
from taigi_lightning.fast_path.apply import expect_state
from taigi_lightning.fast_path.attention import find_documents
from taigi_lightning.internals import batches_taken, run_seed
from taigi_lightning.planning.memory import coming_state_bytes
from taigi_lightning.tasks.prompts import IGNORE
from taigi_lightning.training.stage_model import window_of

WANTED = ("input_ids", "labels", "position_ids")


def counted(batch: Any) -> Any:
    """A batch with its supervised tokens counted and its documents found, while it is on the CPU: on a GPU both wait.

    Args:
        batch: `input_ids`, `labels` and `position_ids`, [B, T] int64, and more; anything else, and what was counted
            already, is given back as it is.
    """
    if not isinstance(batch, dict) or not batch.keys() >= set(WANTED) or "documents" in batch:
        return batch
    supervised = int((batch["labels"][:, 1:] != IGNORE).sum())
    return {**batch, "supervised_tokens": supervised, "documents": find_documents(batch["position_ids"])}


def expect_tokens(batch: Any) -> dict[str, Any]:
    """A batch to learn from, `counted` where no hook of ours has done so.

    Raises:
        InputError: it is something else.
    """
    if not isinstance(batch, dict):
        found = f"a {type(batch).__name__}"
    elif missing := [name for name in WANTED if not isinstance(batch.get(name), Tensor)]:
        found = f"a dict of {', '.join(map(str, batch))}, without {' and '.join(missing)}"
    elif len(shapes := {tuple(batch[name].shape) for name in WANTED}) > 1 or len(min(shapes)) != 2:
        found = "one of shapes " + ", ".join(f"{name} {list(batch[name].shape)}" for name in WANTED)
    else:
        return dict(counted(batch))
    raise InputError(
        "A batch to learn from is a dict of input_ids, labels and position_ids, each [B, T] int64: labels are -100 "
        "where nothing is learnt, positions begin at 0 with each document (torch.arange(T).expand(B, T) where each "
        f"row is one). This one is {found}."
    )


def share_of_window(module: Any, batch: Any) -> tuple[Tensor, int]:
    """A micro-batch's share of its window's mean loss, as far as Lightning and DDP do not make it so themselves.

    Args:
        module: whose `loss_sum` is the loss summed over the supervised tokens, a scalar in nats.
        batch: with the window's supervised tokens over all ranks as `window_tokens`, or its own alone; of micro-batches
            without, each weighs the same.

    Returns:
        scalar in nats a token, and the micro-batches by whose number Lightning will divide it.

    Raises:
        InputError: it is another kind of batch.
    """
    batch, (accumulated, ranks) = expect_tokens(batch), window_of(module)
    loss: Tensor = module.loss_sum(batch)
    if "window_tokens" in batch:
        return loss * (ranks / max(1, batch["window_tokens"])), accumulated
    return loss / (max(1, batch["supervised_tokens"]) * accumulated), accumulated


def begin_batch(trainer: pl.Trainer, model: torch.nn.Module, rank: int) -> None:
    """Seed dropout from the run's seed, the rank and batch number alone; say what memory is still to be taken.

    So a resumed run draws what the unbroken one drew, however often either validated in between.
    """
    torch.manual_seed(((run_seed() or 0) * 1_000_003 + rank) * 1_000_003 + batches_taken(trainer))
    expect_state(model, sum(map(coming_state_bytes, trainer.optimizers)))
