"""A held-out text as the trained model reads it: each piece's token NLL, for the report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from transformers import PreTrainedTokenizerBase

from taigi_lightning.atomic_write import write_json
from taigi_lightning.evaluation.sample_answers import evaluating
from taigi_lightning.fast_path.apply import forward_hidden
from taigi_lightning.fast_path.output_head import output_head
from taigi_lightning.reports.training_report import TEXT

TOKENS = 400
ROWS = 64  # positions whose logits are held at once


class HeldOutText(Callback):
    """When training on texts ends, leave in `held_out_text.json` the token NLL of one of them.

    It is the first of the held-out split, up to TOKENS tokens: chosen by place, not by outcome.
    """

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take away what an earlier run left, unless this one goes on from it."""
        if trainer.is_global_zero and not trainer.ckpt_path:
            (Path(trainer.default_root_dir) / TEXT).unlink(missing_ok=True)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Read it on the first rank, in the precision of a validation."""
        data: Any = getattr(trainer, "datamodule", None)
        splits = getattr(data, "splits", {})
        split = next((split for name, split in splits.items() if name.startswith("validation")), None)
        if split is None or split.unit != "documents" or not trainer.is_global_zero:
            return
        if getattr(trainer, "fast_dev_run", False):
            return
        module: Any = pl_module
        blocks = split.blocks
        length = int(blocks.packing.lengths[blocks.packing.starts == 0].max())
        tokens = blocks.tokens[: min(length, TOKENS)].tolist()
        with evaluating(trainer, module):
            nats = token_nll(module.model, torch.tensor(tokens, device=module.device))
            read = {
                "pieces": pieces(module.tokenizer, tokens, nats),
                "mean": sum(nats) / max(1, len(nats) - 1),
            }
            path = Path(trainer.default_root_dir) / TEXT
            write_json(path, read, indent=None)


def token_nll(model: Any, input_ids: torch.Tensor) -> list[float]:
    """-log p of each token of a text after those before it.

    Args:
        model: the PEFT model, or a bare transformers causal language model, in eval mode.
        input_ids: [T] int64, one document from its beginning.

    Returns:
        T numbers, in nats; 0 for the first token, which nothing predicts.
    """
    positions = torch.arange(len(input_ids), device=input_ids.device)
    hidden = forward_hidden(model, input_ids[None], positions[None])[0, :-1]  # [T - 1, H]
    head = output_head(model)
    found = [0.0]
    for rows, targets in zip(torch.split(hidden, ROWS), torch.split(input_ids[1:], ROWS), strict=True):
        logs = torch.cat(head.logits(rows), dim=-1).log_softmax(-1)  # [ROWS, V]
        found += (-logs.gather(1, targets[:, None])).squeeze(1).tolist()
    return found


def pieces(
    tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int], nats: Sequence[float]
) -> list[tuple[str, float]]:
    """Tokens as text with their nats; those that are a character only together are one piece."""
    found: list[tuple[str, float]] = []
    text, waiting = "", 0.0
    for end, nll in enumerate(nats, start=1):
        waiting += nll
        read = str(tokenizer.decode(tokens[:end], skip_special_tokens=True))
        whole = not read.endswith("\ufffd") or end == len(nats)
        if whole and len(read) > len(text):
            found.append((read[len(text) :], round(waiting, 3)))
            text, waiting = read, 0.0
    return found
