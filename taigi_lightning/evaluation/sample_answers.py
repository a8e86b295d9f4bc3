"""A few held-out questions with what the trained model thinks of their options, for the report."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback

from taigi_lightning.atomic_write import write_json
from taigi_lightning.evaluation.answers import predict_batch
from taigi_lightning.evaluation.predictions import Prediction, answer_probabilities
from taigi_lightning.reports.training_report import ANSWERS
from taigi_lightning.tasks.question_batches import plan_batches
from taigi_lightning.tasks.questions import Question

logger = logging.getLogger(__name__)

SHOWN = 8


class HeldOutAnswers(Callback):
    """When training ends, answer SHOWN of the held-out questions and leave them in `held_out_answers.json`.

    They are spread evenly over the held-out ones, in the file's order: chosen by place, not by outcome.
    """

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take away what an earlier run left, unless this one goes on from it."""
        if trainer.is_global_zero and not trainer.ckpt_path:
            (Path(trainer.default_root_dir) / ANSWERS).unlink(missing_ok=True)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Answer on the first rank, in the precision of a validation."""
        data: Any = getattr(trainer, "datamodule", None)
        questions: list[Question] = getattr(data, "held_out_questions", [])
        if not questions or not trainer.is_global_zero or getattr(trainer, "fast_dev_run", False):
            return
        answered = sample_answers(trainer, pl_module)
        if answered:
            shown, predictions = zip(*answered, strict=True)
            write_answers(Path(trainer.default_root_dir) / ANSWERS, shown, predictions, len(questions))


def sample_answers(trainer: pl.Trainer, pl_module: pl.LightningModule) -> list[tuple[Question, Prediction]]:
    """SHOWN of the held-out questions, spread evenly, with the model's answers; empty where none are held out."""
    data: Any = getattr(trainer, "datamodule", None)
    module: Any = pl_module
    questions: list[Question] = getattr(data, "held_out_questions", [])
    places = spread(len(questions), SHOWN)
    found: dict[int, Prediction] = {}
    if places:
        # One a batch, so that it needs less memory than a validation did.
        batches = plan_batches([data.held_out[place] for place in places], 1, share=False)
        with evaluating(trainer, module):
            for batch in batches:
                predictions = predict_batch(module.model, module.tokenizer, batch, "choice")
                found |= {prediction.row: prediction for prediction in predictions}
    return [(questions[p], found[questions[p].row]) for p in places if questions[p].row in found]


@contextmanager
def evaluating(trainer: pl.Trainer, module: Any) -> Iterator[None]:
    """Evaluate as validation does. An error is logged, not raised: the trained model is still to be exported."""
    training = module.model.training
    module.model.eval()
    for optimizer in trainer.optimizers:
        if hasattr(
            optimizer, "eval"
        ):  # a schedule-free one, whose weights to use are others than those it steps from
            optimizer.eval()
    try:
        with torch.no_grad(), trainer.precision_plugin.val_step_context():
            yield
    except Exception:
        logger.exception("The report goes without samples of what the model says")
    finally:
        module.model.train(training)


def spread(total: int, wanted: int) -> list[int]:
    """At most `wanted` of the places 0 to `total` - 1, evenly spread.

    >>> spread(10, 4), spread(2, 4)
    ([0, 2, 5, 7], [0, 1])
    """
    wanted = min(wanted, total)
    return [number * total // wanted for number in range(wanted)]


def write_answers(
    path: Path, questions: Sequence[Question], predictions: Sequence[Prediction], held_out: int
) -> None:
    """Write questions, answers and probabilities as JSON, aside first and then renamed.

    Args:
        predictions: of the same questions, in any order.
        held_out: how many questions were held out in all.
    """
    predicted = {prediction.row: prediction for prediction in predictions}
    rows = [
        {
            "id": question.id,
            "row": question.row,
            "passage": question.passage,
            "question": question.question,
            "options": question.options,
            "right": question.answer,
            "answer": predicted[question.row].answer,
            "probabilities": answer_probabilities(predicted[question.row]),
        }
        for question in questions
    ]
    write_json(path, {"held_out": held_out, "answers": rows}, indent=1)
