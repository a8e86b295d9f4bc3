"""What one pass over the held-out data adds up to: loss and perplexity per token, accuracy per question."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from taigi_lightning.evaluation.answers import choice_accuracy_batch
from taigi_lightning.tasks.question_batches import QuestionBatch
from taigi_lightning.training.distributed import sum_over_ranks
from taigi_lightning.training.step_batches import expect_tokens


@dataclass
class HeldOutSums:
    """Nats, supervised tokens, correct answers and questions of this process so far."""

    loss: Tensor | float = 0.0
    tokens: int = 0
    correct: int = 0
    questions: int = 0
    sources: dict[str, HeldOutSums] = field(default_factory=dict)  # where several are validated on

    def add_batch(self, module: Any, batch: Any) -> None:
        """Add a batch of questions, which a `CausalLMModule` answers, or one of tokens, whose loss it sums.

        Raises:
            InputError: it is another kind of batch.
        """
        if isinstance(batch, QuestionBatch):
            self.add_answers(*choice_accuracy_batch(module.model, batch))
        else:
            batch = expect_tokens(batch)
            self.add_loss(module.loss_sum(batch), batch["supervised_tokens"], batch.get("source"))

    def add_loss(self, loss: Tensor, tokens: int, source: str | None = None) -> None:
        """Add a batch's summed loss, a scalar in nats, how many tokens it is of, and of which source it is."""
        self.loss = self.loss + loss.double()
        self.tokens += tokens
        if source is not None:
            self.sources.setdefault(source, HeldOutSums()).add_loss(loss, tokens)

    def add_answers(self, correct: int, questions: int) -> None:
        """Add a batch's correct answers and questions."""
        self.correct += correct
        self.questions += questions

    def metrics(self, device: torch.device) -> dict[str, Tensor]:
        """Float32 scalars over all processes: val/loss in nats a token, val/perplexity, val/accuracy if asked.

        Of several sources there is also val/loss/SOURCE of each; every process has seen the same ones.
        """
        counts = [self.loss, self.tokens, self.correct, self.questions]
        loss, tokens, correct, questions = sum_over_ranks(counts, device)
        mean = loss / tokens.clamp(min=1)
        found = {"val/loss": mean.float(), "val/perplexity": mean.exp().float()}
        if questions > 0:
            found["val/accuracy"] = (correct / questions).float()
        for name, sums in self.sources.items():
            loss, tokens = sum_over_ranks([sums.loss, sums.tokens], device)
            found[f"val/loss/{name}"] = (loss / tokens.clamp(min=1)).float()
        return found
