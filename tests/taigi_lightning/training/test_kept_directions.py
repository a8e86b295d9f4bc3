"""A run in int8_mixed, emulated, that is stopped and resumed: the same weights as without a stop."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from taigi_lightning.data.predict import PredictDataModule
from taigi_lightning.evaluation.prediction_writer import PredictionWriter
from taigi_lightning.evaluation.run_reports import report_predictions
from taigi_lightning.fast_path.apply import fast_decoder
from taigi_lightning.tasks.question_batches import EncodedQuestion
from taigi_lightning.training import matmul_guard
from taigi_lightning.training.kept_directions import (
    KEY,
    KeptDirections,
    directions_of,
    splits,
    spread,
    strong_parts,
)
from taigi_lightning.training.matmul_guard import MatmulGuard
from taigi_lightning.training.module import CausalLMModule
from tests.taigi_lightning.question_csv import TO_ANSWER, write_csv
from tests.taigi_lightning.training.runs_in_8_bits import Stop, emulating, train
from tests.warm_python import WarmPython

__all__ = ["emulating"]  # a fixture
SEVERAL = "several processes, which PyTorch for Windows cannot let train together"


def directions(trainer: pl.Trainer) -> list[Tensor]:
    found = [one.directions for one in strong_parts(trainer.lightning_module) if one is not None]
    return [one for one in found if one is not None]


def test_a_resumed_run_goes_on_along_the_directions_it_had(
    emulating: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = emulating / "stopped.ckpt"
    whole = train("int8_mixed", 4, Stop(file))
    resumed = train("int8_mixed", 4, checkpoint=file)
    assert len(directions(whole)) == len(strong_parts(whole.lightning_module)) > 0
    assert all(map(torch.equal, directions(resumed), directions(whole)))
    wanted, found = (t.lightning_module.state_dict() for t in (whole, resumed))
    assert wanted.keys() == found.keys() and all(torch.equal(wanted[n], found[n]) for n in wanted)
    # Without them it looks again, in another batch.
    monkeypatch.setattr(KeptDirections, "on_load_checkpoint", lambda *_: None)
    anew = train("int8_mixed", 4, checkpoint=file)
    assert not any(map(torch.equal, directions(anew), directions(whole)))


def test_other_products_have_none_to_keep(emulating: Path) -> None:
    file = emulating / "stopped.ckpt"
    train("int8", 1).save_checkpoint(file)
    assert KEY not in torch.load(file, weights_only=False)
    resumed = train("int8_mixed", 2, checkpoint=file)
    assert directions(resumed)
    resumed.save_checkpoint(file)
    assert strong_parts(train("int8", 3, checkpoint=file).lightning_module).count(None) > 0


def test_a_run_that_goes_on_in_16_bits_holds_none(emulating: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matmul_guard, "LEAST_COSINE", 1.1)
    trainer = train("int8_mixed", 1)
    decoder = fast_decoder(trainer.lightning_module.model)
    assert decoder is not None and decoder.matmul == "bf16"
    assert strong_parts(trainer.lightning_module) and not directions(trainer)
    assert not splits(trainer.lightning_module)  # and no rank waits for others to find any
    assert not any(group.missing_bytes(4) for layer in decoder.layers for group in layer.groups())


@pytest.mark.parametrize(("rows", "found"), [(4, True), (3, False)])
def test_what_is_compared_is_what_trains(
    emulating: Path, capsys: pytest.CaptureFixture[str], rows: int, found: bool
) -> None:
    """No step is judged without the directions if the run has them, and a run that has none yet says so."""
    compared: list[list[Tensor]] = []

    class Note(Callback):
        def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
            compared.append(directions(trainer))  # after the guard, before the step

    trainer = train("int8_mixed", 1, MatmulGuard(), Note(), rows=rows)
    assert [bool(one) for one in compared] == [found] == [bool(directions(trainer))]
    said = capsys.readouterr().out
    assert ("until one has, int8_mixed computes as int8 does" in said) != found


@pytest.mark.posix(SEVERAL)
def test_ranks_split_along_the_same_and_decide_alike(home: Path, warm_python: WarmPython) -> None:
    """Though each has other rows, and one alone finds its gradients turned too far."""
    done = subprocess.run(
        [warm_python.executable, "-m", "tests.taigi_lightning.training.ranks_in_8_bits"],
        env={**os.environ, "PYTHON_EXEC": warm_python.executable},
        capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (json.loads((home / f"rank-{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    assert first["whole"] == first["resumed"] and first["whole"]["matmul"] == "int8_mixed"
    assert first["given up"]["matmul"] == "bf16"


# ---- predictions ----------------------------------------------------------------------------------


class Note(Callback):
    """What each batch is answered with; after one batch the run may be broken off."""

    def __init__(self, after: int = 99) -> None:
        self.left, self.found = after, list[list[Tensor | None]]()

    def on_predict_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("broken off")
        self.found.append(directions_of(pl_module))


def predict(home: Path, note: Note, matmul: str = "int8_mixed", **options: Any) -> None:
    module = CausalLMModule("models/base", matmul=matmul, weights_on_host="all")  # type: ignore[arg-type]
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[PredictionWriter(home / "answers.csv"), note],
    )  # fmt: skip
    data = PredictDataModule(home / "questions.csv", "models/base", **{"batch_tokens": 700} | options)
    trainer.predict(module, data, return_predictions=False)
    report_predictions(trainer, module, data)


def ask(home: Path, count: int) -> None:
    rows = [
        [str(n), f"阮兜蹛佇台南{n}。" * (9 + n % 7), f"第{n}个問題？", "市仔", "學校", f"厝{n}", "海邊"]
        for n in range(count)
    ]
    write_csv(home / "questions.csv", TO_ANSWER, rows, "utf-8")


def test_a_resumed_prediction_splits_along_what_the_first_did(emulating: Path) -> None:
    ask(emulating, 20)
    whole, broken, resumed = Note(), Note(1), Note()
    predict(emulating, whole)
    with pytest.raises(RuntimeError, match="broken off"):
        predict(emulating, broken)
    predict(emulating, resumed)
    assert 1 < len(resumed.found) < len(whole.found)
    assert all(one is not None for one in whole.found[0])
    for other in (*whole.found, *broken.found, *resumed.found):
        assert all(map(torch.equal, whole.found[0], other))  # type: ignore[arg-type]
    page = (emulating / "answers.report.html").read_text(encoding="utf-8")
    assert "<dt>products in</dt><dd>int8_mixed: " in page  # and how many were close calls


def test_answers_in_other_products_are_not_mixed_in(
    emulating: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ask(emulating, 12)
    for matmul in ("bf16", "int8_backward"):  # which answers in 16 bits
        with pytest.raises(RuntimeError, match="broken off"):
            predict(emulating, Note(1), matmul, batch_tokens=300)
    assert "not used" not in caplog.text
    with pytest.raises(RuntimeError, match="broken off"):
        predict(emulating, Note(1), "int8", batch_tokens=300)
    assert "answers of a run with another products" in caplog.text
    caplog.clear()
    predict(emulating, Note(), "bf16")
    assert "answers of a run with another products" in caplog.text


def test_too_few_questions_to_find_any_in_are_said(
    emulating: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ask(emulating, 1)
    note = Note()
    predict(emulating, note)
    assert note.found[0].count(None) == len(note.found[0])
    assert "these questions have fewer: int8_mixed computes as int8 does" in capsys.readouterr().out


def test_questions_are_taken_from_all_over_the_file() -> None:
    questions = [EncodedQuestion(row, str(row), [5] * 10, ([1], [2])) for row in range(1, 101)]
    assert [question.row for question in spread(questions[::-1], 50)] == [1, 21, 41, 61, 81]
    assert len(spread(questions, 9999)) == 100
    # Of which every tenth is long, and ten would be these.
    uneven = [
        EncodedQuestion(row, str(row), [5] * (300 if row % 10 == 1 else 1), ([1], [2]))
        for row in range(1, 101)
    ]
    assert [question.row for question in spread(uneven, 309)] == [1, 34, 67]
    assert [question.row for question in spread(uneven, 20)] == [1]
