"""What the model writes before training and after it, greedily, for the report."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from jsonargparse.typing import NonNegativeInt
from lightning.pytorch.callbacks import Callback

from taigi_lightning.atomic_write import write_json
from taigi_lightning.errors import InputError
from taigi_lightning.evaluation.model_setup import tokens_at_once
from taigi_lightning.evaluation.sample_answers import evaluating
from taigi_lightning.evaluation.sample_prompts import (
    SHOWN,
    Prompt,
    asks_in_turns,
    given_prompts,
    held_out_prompts,
)
from taigi_lightning.fast_path.apply import forward_hidden
from taigi_lightning.fast_path.output_head import output_head
from taigi_lightning.planning.run_files import read_json
from taigi_lightning.reports.training_report import WRITING
from taigi_lightning.tasks.conversation_tokens import answer_ends

SECONDS = 20.0  # for all prompts together; where weights come from host memory a token takes half a second


class WrittenSamples(Callback):
    """Let the model go on with a few prompts before the first step and after the last one; see `report.html`.

    Greedily, with the pass that trains, so that it needs less memory than a training step; it takes seconds.

    Args:
        prompts: what to go on with; null: the beginnings of held-out texts, or held-out conversations' first questions.
        new_tokens: tokens that are written for each; 0, or an empty list of prompts, writes nothing.
    """

    def __init__(self, prompts: list[str] | None = None, new_tokens: NonNegativeInt = 32) -> None:
        self.prompts = prompts
        self.new_tokens = int(new_tokens)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse prompts that cannot be asked, before the base is loaded.

        Raises:
            InputError: one is too long for a micro-batch, is empty, or the chat template does not take it.
        """
        if stage != "fit" or self.prompts is None or not self.new_tokens:
            return
        module: Any = pl_module
        data: Any = getattr(trainer, "datamodule", None)
        for text in self.prompts:
            found = given_prompts([text], data, module.tokenizer)
            if not found:
                raise InputError(
                    "samples.prompts holds an empty one, and this tokenizer has no token to begin with."
                )
            if len(found[0].ids) > self._longest(data, len(self.prompts)):
                raise InputError(
                    f"samples.prompts holds one of {len(found[0].ids)} tokens: {len(self.prompts)} of that length with "
                    f"samples.new_tokens {self.new_tokens} are more than a micro-batch of {tokens_at_once(data)}. Give "
                    "shorter ones, or fewer."
                )

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take away what an earlier run left, unless this one goes on from it."""
        if trainer.is_global_zero and not trainer.ckpt_path:
            (Path(trainer.default_root_dir) / WRITING).unlink(missing_ok=True)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write before the first step; a resumed run has done so."""
        if not trainer.ckpt_path and self._writes(trainer):
            self._write(trainer, pl_module, "before")

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write again, with the weights that are exported."""
        if self._writes(trainer):
            self._write(trainer, pl_module, "after")

    def _writes(self, trainer: pl.Trainer) -> bool:
        wanted = self.new_tokens > 0 and self.prompts != []
        return wanted and trainer.is_global_zero and not getattr(trainer, "fast_dev_run", False)

    def _write(self, trainer: pl.Trainer, module: Any, when: str) -> None:
        data: Any = getattr(trainer, "datamodule", None)
        with evaluating(trainer, module):
            prompts = self._chosen(data, module.tokenizer)
            if not prompts:
                if (
                    when == "before"
                    and hasattr(data, "held_out_splits")
                    and not hasattr(data, "held_out_questions")
                ):
                    module.print(
                        "The report goes without samples of what the model writes: nothing is held out that is short "
                        "enough, and samples.prompts names nothing."
                    )
                return
            templated = asks_in_turns(data, module.tokenizer) and bool(module.tokenizer.chat_template)
            ends = answer_ends(module.tokenizer, templated)
            ids = [prompt.ids for prompt in prompts]
            written = write_greedily(
                module.model, ids, self.new_tokens, ends, len(module.tokenizer), module.device
            )
            texts = [str(module.tokenizer.decode(new, skip_special_tokens=True)) for new in written]
            self._keep(Path(trainer.default_root_dir) / WRITING, prompts, texts, when)

    def _chosen(self, data: Any, tokenizer: Any) -> list[Prompt]:
        if self.prompts is not None:
            return given_prompts(self.prompts, data, tokenizer)
        for count in range(SHOWN, 0, -1):  # fewer, where a micro-batch is small
            if found := held_out_prompts(data, tokenizer, count, self.new_tokens, self._longest(data, count)):
                return found
        return []

    def _longest(self, data: Any, count: int) -> int:
        """Tokens of a prompt, so that so many with their continuations are no more than a micro-batch."""
        return tokens_at_once(data) // count - self.new_tokens

    def _keep(self, path: Path, prompts: Sequence[Prompt], texts: Sequence[str], when: str) -> None:
        earlier = {row["prompt"]: row for row in read_json(path) or []}
        rows = [
            {**earlier.get(prompt.text, {}), "prompt": prompt.text, "goes_on": prompt.goes_on, when: text}
            for prompt, text in zip(prompts, texts, strict=True)
        ]
        write_json(path, rows, indent=1)


def write_greedily(
    model: Any,
    prompts: Sequence[Sequence[int]],
    new_tokens: int,
    ends: Sequence[int],
    vocabulary: int,
    device: torch.device,
    seconds: float = SECONDS,
) -> list[list[int]]:
    """The likeliest next token of each prompt, again and again, without a cache: one pass over all for each token.

    The prompts are rows of one shape from first to last, filled up behind, where nothing sees the filling.

    Args:
        model: the PEFT model, or a bare transformers causal language model, in eval mode.
        prompts: token ids, of any lengths above 0.
        new_tokens: how many to write at most.
        ends: tokens that end a text.
        vocabulary: tokens that the tokenizer knows; an output layer may have more.
        device: where the inputs go.
        seconds: after which it stops.

    Returns:
        what was written, without the token that ends it.
    """
    count, width = len(prompts), max(map(len, prompts)) + new_tokens
    ids = torch.zeros(count, width, dtype=torch.int64)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt)] = torch.tensor(prompt)
    ids = ids.to(device)
    positions = torch.arange(width, device=device).expand(count, width).contiguous()
    rows, head = torch.arange(count, device=device), output_head(model)
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    finished = torch.zeros(count, dtype=torch.bool, device=device)
    stops, until = torch.tensor(list(ends), device=device), time.monotonic() + seconds
    for _ in range(new_tokens):
        hidden = forward_hidden(model, ids, positions)[rows, lengths - 1]  # [N, H]
        chosen = torch.cat(head.logits(hidden), dim=-1)[:, :vocabulary].argmax(-1)  # [N]
        finished |= torch.isin(chosen, stops)
        ids[rows, lengths] = torch.where(finished, ids[rows, lengths], chosen)
        lengths += (~finished).long()
        if bool(finished.all()) or time.monotonic() > until:
            break
    found: list[list[int]] = [
        row[len(prompt) : length]
        for row, prompt, length in zip(ids.tolist(), prompts, lengths.tolist(), strict=True)
    ]
    return found
