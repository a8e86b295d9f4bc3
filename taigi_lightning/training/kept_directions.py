"""Which directions a run in int8_mixed splits its inputs along: the same on every rank, and after a resume."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from taigi_lightning.evaluation.answers import hidden_states
from taigi_lightning.fast_path.apply import fast_decoder
from taigi_lightning.fast_path.strong_directions import FEWEST, MOST, StrongDirections
from taigi_lightning.kernels.matmul import strong_directions
from taigi_lightning.tasks.question_batches import EncodedQuestion, group_tree
from taigi_lightning.training.distributed import over_ranks

KEY = "strong_directions"


class KeptDirections(Callback):
    """Write the strongest directions of every input into checkpoints, take them up again, and give all ranks the same.

    They are found in a run's first micro-batch of enough tokens, which a resumed run does not see, and which each rank
    has another of: those of the first rank that found some count. A prediction finds them in questions from all over
    its file, however many of them an interrupted run or another rank has answered.
    """

    def __init__(self) -> None:
        self._kept: list[Tensor | None] = []
        self._agreed = False

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add P (R, K) of each group of projections, where there is one."""
        found = directions_of(pl_module)
        if any(directions is not None for directions in found):
            checkpoint[KEY] = found

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Hold them until the model is where it trains."""
        self._kept = checkpoint.get(KEY, []) if trainer.state.fn == TrainerFn.FITTING else []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Hand them over, if this run's products split their inputs too."""
        use(pl_module, self._kept)
        self._kept, self._agreed = [], trainer.world_size == 1

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Once a rank has found directions, let all split along them. `MatmulGuard` looks for them before this; where
        it could not, a rank's first micro-batch of enough tokens is split along its own, as right as any."""
        if self._agreed or not splits(pl_module):
            return
        found = directions_of(pl_module)
        there = any(directions is not None for directions in found)
        ranks = trainer.world_size
        place = torch.tensor(ranks - trainer.global_rank if there else 0, device=pl_module.device)
        first = ranks - int(over_ranks(place, "max"))
        if first < ranks:
            use(pl_module, trainer.strategy.broadcast(found, first))
            self._agreed = True

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look for them in the questions, if products want them."""
        find_in_questions(pl_module, getattr(getattr(trainer, "datamodule", None), "encoded", []))

    on_test_start = on_predict_start


def strong_parts(module: Any) -> list[StrongDirections | None]:
    """Of each group of projections, layer by layer; None where nothing is split. Empty off the fast path."""
    decoder = fast_decoder(module.model)
    return [] if decoder is None else [g.strong for layer in decoder.layers for g in layer.groups()]


def splits(module: Any) -> bool:
    """Whether products are made along directions now, or will be once some are found."""
    decoder = fast_decoder(module.model)
    return decoder is not None and strong_directions(decoder.matmul) > 0


def directions_of(module: Any) -> list[Tensor | None]:
    """P (R, K) of each of `strong_parts`, on the CPU; None where there is none yet."""
    found = (None if part is None else part.directions for part in strong_parts(module))
    return [None if directions is None else directions.detach().cpu() for directions in found]


def use(module: Any, found: list[Tensor | None]) -> None:
    """Split inputs along what `directions_of` gave, if it is of as many groups."""
    parts = strong_parts(module)
    if len(found) == len(parts):
        for part, directions in zip(parts, found, strict=True):
            if part is not None:
                part.use(directions)


@torch.no_grad()
def find_in_questions(module: Any, questions: Sequence[EncodedQuestion]) -> None:
    """Look for directions in questions from all over the file, whichever batches are to come, if products want any."""
    if not splits(module) or not questions or module.answer_strategy == "generate":
        return
    trees = [group_tree([question]) for question in spread(questions, MOST)]
    if sum(len(tree.tokens) for tree in trees) < FEWEST:
        module.print(
            f"The strongest directions are looked for in {FEWEST} tokens or more, and these questions have fewer: "
            f"{module.matmul} computes as int8 does."
        )
        return
    use(module, [None] * len(strong_parts(module)))
    places = [(row, node) for row, tree in enumerate(trees) for node in range(len(tree.tokens))]
    hidden_states(module.model, trees, places)


def spread(questions: Sequence[EncodedQuestion], tokens: int) -> list[EncodedQuestion]:
    """About as many questions as have so many tokens, as far apart as can be; all if they have fewer.

    Where just the longest were met, fewer: they pass through the model as one row, of twice so many tokens at most, or
    of one question.
    """
    ordered = sorted(questions, key=lambda question: (question.row, question.rotation))
    total = sum(len(question.prompt) for question in ordered)
    count = min(len(ordered), -(-tokens * len(ordered) // total))
    while True:
        found = [ordered[place * len(ordered) // count] for place in range(count)]
        if count == 1 or sum(len(question.prompt) for question in found) <= 2 * tokens:
            return found
        count = (count + 1) // 2
