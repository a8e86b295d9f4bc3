"""What `test` prints: accuracy with its interval, the confusion matrix, and the bias towards positions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from rich.table import Table

from taigi_lightning.data.predict import PredictDataModule
from taigi_lightning.errors import InputError
from taigi_lightning.evaluation.close_calls import settle_close_calls
from taigi_lightning.evaluation.gathering import gather
from taigi_lightning.evaluation.predictions import Prediction, by_order, by_row, combine_rotations
from taigi_lightning.evaluation.scoring import Answers, Score, position_bias, score, score_table
from taigi_lightning.terminal import console


class AnswerReport(Callback):
    """Score the predictions that `test_step` returns, over all devices, and print the report once.

    Logs `test/accuracy` and, with `average_orders`, `test/follows`: the share of questions whose answer
    follows its option through all orders.
    """

    def __init__(self) -> None:
        self._predictions: list[Prediction] = []
        self.score: Score | None = None

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin anew."""
        self._predictions = []

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep a batch's predictions."""
        self._predictions += outputs

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Gather, score, log and print."""
        data: Any = getattr(trainer, "datamodule", None)
        if not isinstance(data, PredictDataModule):
            raise InputError(f"`test` answers questions: give PredictDataModule, not {type(data).__name__}.")
        settled = settle_close_calls(pl_module, data, gather(self._predictions), "test")
        predictions = settled.predictions
        asked = {p.row for p in predictions}  # fewer than all where limit_test_batches says so
        right = {q.id: q.answer for q in data.encoded if q.row in asked and q.answer is not None}
        given, orders = by_question(predictions)
        self.score = score(given, list(right.items()), options=data.prompt.options)
        pl_module.log("test/accuracy", self.score.accuracy)
        whole = [order for order in orders if len(order) == len(data.rotations)]
        bias = position_bias(whole) if whole and len(data.rotations) > 1 else None
        if bias is not None:
            pl_module.log("test/follows", bias["follows"])
        if trainer.is_global_zero:
            screen = console()
            screen.print(score_table(self.score, data.prompt.answers))
            if settled.said is not None:
                screen.print(settled.said)
            if bias is not None:
                screen.print(position_table(bias))


def by_question(predictions: Sequence[Prediction]) -> tuple[Answers, list[str]]:
    """One answer for each question, from all orders of its options.

    Returns:
        (ID, answer) in the input's order, and as many texts of the answers in the order of the rotations.
    """
    turns = by_row(predictions).values()
    return [(group[0].id, combine_rotations(group)[0]) for group in turns], [
        by_order(group) for group in turns
    ]


def position_table(bias: dict[str, float]) -> Table:
    """How often each place was chosen, whatever stood there."""
    title = f"The answer follows its option through all orders on {bias['follows']:.1%} of the questions"
    table = Table("place of the option", "chosen", title=title)
    for place in range(1, len(bias)):  # and `follows`
        table.add_row(str(place), f"{bias[f'position_{place}']:.1%}")
    return table
