"""Predictions into files: a journal while they come, the answers and their probabilities at the end."""

from __future__ import annotations

import csv
import hashlib
import json
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info

from taigi_lightning.atomic_write import written_aside
from taigi_lightning.data.predict import PredictDataModule, some_ids
from taigi_lightning.errors import InputError
from taigi_lightning.evaluation.answers import Strategy
from taigi_lightning.evaluation.close_calls import Settled, settle_close_calls
from taigi_lightning.evaluation.journal import (
    Journal,
    Key,
    journal_path,
    journals,
    read_journal,
    resume_journals,
)
from taigi_lightning.evaluation.predictions import Prediction, by_order, by_row, combine_rotations
from taigi_lightning.kernels.matmul import forward_in_8_bits
from taigi_lightning.tasks.question_prompt import FOUR_CHOICE
from taigi_lightning.windows import in_use, patiently

logger = logging.getLogger(__name__)


class PredictionWriter(Callback):
    """Write `output` (`ID,Answer`) and, beside it, what the answers rest on (`….probabilities.csv`).

    Each batch's predictions are appended to a journal first, one for each device. A run that was killed
    and is started again continues from the journals; the end of a run turns them into the two files, every
    question once and in the input's order, and removes them. A journal of another model or other questions
    is put aside with a word.

    Close calls of an answering in 8 bits are settled at the end (`close_calls.py`). What `trainer.predict` returns is
    then what the files have; other callbacks were given each batch as it was answered first.

    Args:
        output: the file to write.
        excel: begin both files with the mark by which Excel knows UTF-8; it would show other characters.
    """

    def __init__(self, output: Path = Path("data/output-CPT&SFT_V2.csv"), excel: bool = False) -> None:
        self.output = Path(output)
        self.excel = excel
        self._expected: dict[Key, str] = {}
        self._journal: IO[str] | None = None
        self.said: str | None = None  # of the last run's close calls
        self.written = False  # what the last run answered

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Find out what is answered already, the same on every device, and open this device's journal."""
        if stage != "predict":
            return
        data: Any = getattr(trainer, "datamodule", None)
        if not isinstance(data, PredictDataModule):
            raise InputError(f"PredictionWriter needs PredictDataModule; the data is {type(data).__name__}.")
        if self.output.is_dir():
            raise InputError(
                f"{self.output} is a folder; the answers need a file, such as {self.output}/answers.csv."
            )
        for file in (self.output, probabilities_path(self.output)):
            if in_use(file):
                raise InputError(f"{file} is open in another program, such as Excel. Close it there first.")
        self._expected, self.said, self.written = (
            {(q.row, q.rotation): q.id for q in data.encoded},
            None,
            False,
        )
        header = _identity(pl_module, data, trainer.ckpt_path)
        answered: Iterable[Key] = ()
        if trainer.is_global_zero:
            self.output.parent.mkdir(parents=True, exist_ok=True)
            found = resume_journals(self.output, header)
            answered = list(found)
            if found:
                rank_zero_info(f"Continuing: {len(found)} of {len(self._expected)} questions are answered.")
        data.answered = frozenset(trainer.strategy.broadcast(answered))
        journal = journal_path(self.output, trainer.global_rank)
        begun = journal.exists()
        self._journal = journal.open("a", encoding="utf-8")
        if not begun:
            self._write_line(header)

    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Sequence[Prediction],
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Append a batch's predictions to this device's journal."""
        for prediction in outputs:
            self._write_line(prediction)

    def _write_line(self, value: Any) -> None:
        assert self._journal is not None
        self._journal.write(json.dumps(value, ensure_ascii=False) + "\n")
        self._journal.flush()

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """When every device is done, write the files from all journals."""
        assert self._journal is not None
        self._journal.close()
        trainer.strategy.barrier("predictions")
        found: Journal = {}
        for file in journals(self.output) if trainer.is_global_zero else ():
            found |= read_journal(file)[1]
        found = trainer.strategy.broadcast(found)
        missing = self._expected.keys() - found.keys()
        if not missing:
            answered = [found[key] for key in sorted(self._expected)]
            data: Any = trainer.datamodule  # type: ignore[attr-defined]
            settled = settle_close_calls(pl_module, data, answered, "predict")
            self.said = settled.said
            _hand_back(trainer, settled)
            if trainer.is_global_zero:
                self._write(settled, pl_module.answer_strategy)  # type: ignore[arg-type]
            self.written = True
        elif trainer.is_global_zero:
            logger.warning(
                "%d of %d questions are unanswered, so %s is not written; the journal beside it keeps the rest. "
                "Run predict again without a limit on batches.",
                len(missing), len(self._expected), self.output,
            )  # fmt: skip

    def _write(self, settled: Settled, strategy: Strategy) -> None:
        """Write both files, remove the journals, and say what happened."""
        predictions = settled.predictions
        fallbacks = write_predictions(self.output, predictions, self.excel)
        for file in journals(self.output):
            patiently(file.unlink)
        basis = "generated texts" if strategy == "generate" else "probabilities"
        details = probabilities_path(self.output)
        names = predictions[0].names if predictions else FOUR_CHOICE.answers
        if settled.said is not None:
            (logger.warning if settled.many else rank_zero_info)(settled.said)
        rank_zero_info(f"The answers are in {self.output}, their {basis} in {details}.")
        if fallbacks:
            logger.warning(
                "Of %d questions %d have a generated text that does not begin with %s-%s and counts as %s: IDs %s. "
                "The column Fallbacks of %s marks them.",
                len({p.row for p in predictions}), len(fallbacks), names[0], names[-1], names[0],
                some_ids(fallbacks), details,
            )  # fmt: skip


def _hand_back(trainer: pl.Trainer, settled: Settled) -> None:
    """Let what `trainer.predict` is about to return be what the files have."""
    final = {(p.row, p.rotation): p for p in settled.predictions}
    for outputs in trainer.predict_loop.predictions or []:
        outputs[:] = [final[p.row, p.rotation] for p in outputs]


# ---- the files ------------------------------------------------------------------------------------


def write_predictions(output: Path, predictions: Sequence[Prediction], excel: bool = False) -> list[str]:
    """Write `ID,Answer` to `output` and the probabilities beside it, each aside first and then renamed.

    Args:
        output: the answers' file; the other one has `.probabilities` before its suffix.
        predictions: in the input's order, all rotations of a question together.
        excel: with a byte order mark.

    Returns:
        the IDs of questions whose generated text began with no answer.
    """
    answers, details, fallbacks = [], [], []
    for turns in by_row(predictions).values():
        answer, shares = combine_rotations(turns)
        first, second = sorted(shares, reverse=True)[:2]
        texts = " | ".join(turn.text for turn in turns if turn.text is not None)
        label = turns[0].names[answer - 1]
        answers.append([turns[0].id, label])
        details.append(
            [
                turns[0].id,
                label,
                *(f"{share:.6f}" for share in shares),
                f"{first - second:.6f}",
                by_order(turns),
                texts,
                sum(turn.fallback for turn in turns),
            ]
        )
        if any(turn.fallback for turn in turns):
            fallbacks.append(turns[0].id)
    count = len(predictions[0].names) if predictions else len(FOUR_CHOICE.answers)
    names = [f"Probability{place}" for place in range(1, count + 1)]
    encoding = "utf-8-sig" if excel else "utf-8"
    _write_csv(probabilities_path(output), [*DETAILS[:2], *names, *DETAILS[2:]], details, encoding)
    _write_csv(output, ["ID", "Answer"], answers, encoding)
    return fallbacks


DETAILS = ("ID", "Answer", "Margin", "AnswerByOrder", "Text", "Fallbacks")


def probabilities_path(output: Path) -> Path:
    """Where the probabilities of `output` go."""
    return output.with_name(f"{output.stem}.probabilities{output.suffix or '.csv'}")


def _write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]], encoding: str) -> None:
    with written_aside(path) as aside, aside.open("w", encoding=encoding, newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def _identity(module: Any, data: PredictDataModule, checkpoint: Any) -> dict[str, str]:
    """What must be the same for two runs' answers to belong together; module is a `CausalLMModule`."""
    questions = hashlib.blake2b(digest_size=16)
    for question in data.encoded:
        questions.update(repr((question.row, question.id, question.prompt, question.answers)).encode())
    # The name is left out: a folder may be moved.
    identity = {f"base {key}": value for key, value in module.identity.items() if key != "name"}
    if forward_in_8_bits(module.matmul) and module.answer_strategy != "generate":
        # Left out of others, so that journals of earlier versions still count.
        identity["products"] = module.matmul
    return identity | {
        "adapter": _file_hash(Path(module.adapter) / "adapter_model.safetensors")
        if module.adapter
        else "none",
        "checkpoint": _file_hash(Path(checkpoint)) if checkpoint else "none",
        "strategy": module.answer_strategy,
        "questions": questions.hexdigest(),
    }


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
