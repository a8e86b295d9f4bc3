"""Close calls of an answering in 8 bits: which are asked again, and that the files then have what 16 bits answer."""

import logging
import math
import os
import random
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from taigi_lightning.data.predict import PredictDataModule
from taigi_lightning.evaluation.close_calls import FIRST, LEFT, ask_closest, how_many, margin
from taigi_lightning.evaluation.prediction_writer import PredictionWriter
from taigi_lightning.evaluation.predictions import Prediction, combine_rotations
from taigi_lightning.evaluation.run_reports import report_predictions
from taigi_lightning.evaluation.scoring import read_answers
from taigi_lightning.evaluation.test_report import AnswerReport
from taigi_lightning.fast_path.apply import apply_fast_path, compute_in, device_of, fast_decoder
from taigi_lightning.training import stage_model
from taigi_lightning.training.module import CausalLMModule
from tests.taigi_lightning.evaluation.test_prediction_writer import KillAfter, KilledError
from tests.taigi_lightning.question_csv import TO_ANSWER, write_csv
from tests.warm_python import WarmPython

BASE = "models/tiny-taigi"
COUNT = 48
WORDS = ["市仔", "學校", "厝", "海邊", "山頂", "病院", "公園", "車頭", "廟", "田"]


def prediction(row: int, log_probabilities: Sequence[float], rotation: int = 0) -> Prediction:
    best = max(range(len(log_probabilities)), key=lambda option: log_probabilities[option])
    return Prediction(row, str(row), best + 1, tuple(log_probabilities), None, False, rotation)


Answers = dict[int, Any]  # a question's predictions by its row


def answers(count: int, noise: float, orders: int = 1, spread: float = 1.5) -> tuple[Answers, Answers]:
    """As 16 bits give them, and moved at random."""
    draw = random.Random(0)
    exact = {
        n: [prediction(n, [draw.gauss(0, spread) for _ in range(4)], turn) for turn in range(orders)]
        for n in range(count)
    }
    moved = {
        n: [
            prediction(n, [v + draw.gauss(0, noise) for v in p.log_probabilities or ()], p.rotation)
            for p in turns
        ]
        for n, turns in exact.items()
    }
    return exact, moved


def differing(one: Answers, other: Answers) -> float:
    return sum(combine_rotations(one[row])[0] != combine_rotations(other[row])[0] for row in one) / len(one)


@pytest.mark.parametrize(
    ("noise", "orders", "spread"),
    [(0.01, 1, 1.5), (0.05, 1, 1.5), (0.15, 1, 1.5), (0.05, 4, 1.5), (0.03, 4, 0.5), (0.3, 2, 9.0)],
)
def test_so_many_are_asked_again_that_few_others_differ(noise: float, orders: int, spread: float) -> None:
    exact, moved = answers(4000, noise, orders, spread)
    asked: list[int] = []

    def ask(rows: Sequence[int]) -> list[Prediction]:
        asked.extend(rows)
        return [p for row in rows for p in exact[row]]

    again, left = ask_closest(moved, ask)
    assert len(asked) == len(set(asked)) == len(again) < 0.25 * len(moved)
    assert max(margin(moved[row]) for row in asked) <= min(
        margin(turns) for row, turns in moved.items() if row not in again
    )
    settled = moved | again
    assert differing(settled, exact) < 0.01  # what is promised of answers in 8 bits
    assert left <= LEFT * len(moved)
    before = differing(moved, exact)
    if before > LEFT:
        assert left / len(moved) == pytest.approx(differing(settled, exact), abs=0.0035)
        assert differing(settled, exact) < before
    else:
        assert len(asked) == FIRST  # as many as tell that no more are needed


def test_what_moves_nothing_and_what_is_small() -> None:
    exact, _ = answers(100, 0.0)
    again, left = ask_closest(exact, lambda rows: [p for row in rows for p in exact[row]])
    assert (len(again), left) == (FIRST, 0.0)
    few = dict(list(exact.items())[:5])
    assert ask_closest(few, lambda rows: [p for row in rows for p in exact[row]])[0] == few
    assert how_many([], [1.0], 0.1) == (0, 0.0)
    assert ask_closest({}, lambda rows: []) == ({}, 0.0)


def test_orders_that_contradict_each_other_are_a_close_call_though_each_is_sure() -> None:
    sure = [prediction(1, [0.0, -6.0, -9.0], 0), prediction(1, [-6.001, 0.0, -9.0], 1)]
    assert margin(sure) < 0.001
    assert margin(sure[:1]) > 5
    assert margin([prediction(1, [0.0, -2000.0])]) == 2000  # the probability itself would be 0


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    (
        "lost",
        "settled",
    ),  # how many of 100 are asked again if the first ten have such log-probabilities in 8 bits
    [
        ([NAN, 0.0], FIRST),
        ([NAN, NAN], FIRST),
        ([-INF, -INF], FIRST),
        ([INF, 0.0], FIRST),
        ([-INF, 0.0], FIRST),
    ],
)
def test_what_is_no_number_is_asked_again_first_and_moves_no_others(lost: list[float], settled: int) -> None:
    exact = {n: [prediction(n, [0.0, -0.1 * n])] for n in range(100)}
    moved = {n: [prediction(n, lost)] if n < 10 else turns for n, turns in exact.items()}
    again, left = ask_closest(moved, lambda rows: [p for row in rows for p in exact[row]])
    assert (len(again), left) == (settled, 0.0)
    assert set(range(10)) <= set(again) or lost == [-INF, 0.0]  # as sure as can be


def test_where_nothing_can_be_compared_all_are_asked_again() -> None:
    exact = {n: [prediction(n, [0.0, -1.0])] for n in range(100)}
    moved = {n: [prediction(n, [NAN, NAN])] for n in exact}
    again, left = ask_closest(moved, lambda rows: [p for row in rows for p in exact[row]])
    assert len(again) == 99 and left == 0.5  # of 100 that is half a percent
    # A step that gives nothing back is not asked for ever.
    assert ask_closest(exact, lambda rows: [])[0].keys() == set(range(FIRST))


class In8Bits(pl.Callback):
    """What a card does for `model.matmul`, emulated."""

    def on_predict_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if fast_decoder(pl_module.model) is None:
            apply_fast_path(pl_module.model, activation_budget=1.0)
        compute_in(pl_module.model, "fp8")
        fast_decoder(pl_module.model).keep_unpacked(1, packed_on_host=False, backward=False)  # type: ignore[union-attr]

    on_test_start = on_predict_start


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    draw = random.Random(1)
    rows = []
    for n in range(COUNT):
        passage = "".join(draw.choices(WORDS, k=9))
        rows.append([str(n), passage, f"{draw.choice(WORDS)}佇佗位？", *draw.sample(WORDS, 4)])
    return write_csv(tmp_path_factory.mktemp("asked") / "questions.csv", TO_ANSWER, rows, "utf-8")


@pytest.fixture(scope="module")
def rounded(questions: Path) -> Path:
    """The answers in 8 bits, close calls settled."""
    run(questions, questions.with_name("rounded.csv"), In8Bits())
    return questions.with_name("rounded.csv")


def trainer_with(*callbacks: pl.Callback, **options: Any) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, use_distributed_sampler=False, callbacks=list(callbacks), **options,
    )  # fmt: skip


def run(questions: Path, output: Path, *callbacks: pl.Callback, **options: Any) -> Any:
    module = CausalLMModule(BASE)
    trainer = trainer_with(PredictionWriter(output), *callbacks, **options)
    trainer.predict(module, PredictDataModule(questions, BASE, batch_tokens=1024), return_predictions=False)
    return module


def test_the_files_have_what_16_bits_answer(
    questions: Path, rounded: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Those of a run that was stopped and goes on as well, which says what it did."""
    run(questions, tmp_path / "exact.csv")
    exact, found = (dict(read_answers(file)) for file in (tmp_path / "exact.csv", rounded))
    assert sum(found[key] != answer for key, answer in exact.items()) <= 1
    with pytest.raises(KilledError):
        run(questions, tmp_path / "stopped.csv", In8Bits(), KillAfter(2))
    caplog.set_level(logging.INFO)
    module = run(questions, tmp_path / "stopped.csv", In8Bits())
    (said,) = [record.message for record in caplog.records if "close calls" in record.message]
    assert said.startswith("fp8: ") and f"of {COUNT} answers" in said
    assert FIRST <= int(said.split()[1]) <= COUNT
    assert (tmp_path / "stopped.csv").read_text() == rounded.read_text()
    decoder = fast_decoder(module.model)
    assert decoder is not None and decoder.matmul == "fp8"  # as before


def test_a_test_is_scored_by_what_predict_would_write(questions: Path, rounded: Path, tmp_path: Path) -> None:
    found = dict(read_answers(rounded))
    rows = [line.split(",") for line in questions.read_text(encoding="utf-8").splitlines()[1:]]
    columns = [*TO_ANSWER, "正確答案"]
    known = write_csv(tmp_path / "known.csv", columns, [[*row, str(found[row[0]])] for row in rows], "utf-8")
    report = AnswerReport()
    data = PredictDataModule(known, BASE, batch_tokens=1024)
    trainer_with(report, In8Bits()).test(CausalLMModule(BASE), data, verbose=False)
    assert report.score is not None and report.score.accuracy == 1.0


class OwnStep(CausalLMModule):
    """As a user may write one: without the batch's number, and with probabilities of its own."""

    def predict_step(self, batch: Any) -> list[Prediction]:  # type: ignore[override]
        own = super().predict_step(batch, 0)
        return [p._replace(log_probabilities=tuple(2 * v for v in p.log_probabilities or ())) for p in own]


def test_they_are_asked_again_as_the_module_asks_in_every_order_and_handed_back(
    questions: Path, tmp_path: Path
) -> None:
    lines = questions.read_text(encoding="utf-8").splitlines()[:9]
    few = tmp_path / "few.csv"
    few.write_text("\n".join(lines) + "\n", encoding="utf-8")
    data = PredictDataModule(few, BASE, batch_tokens=1024, average_orders=True)
    found = []
    for name, callbacks in (("exact", []), ("rounded", [In8Bits()])):
        trainer = trainer_with(PredictionWriter(tmp_path / f"{name}.csv"), *callbacks)
        found.append([p for batch in trainer.predict(OwnStep(BASE), data) or [] for p in batch])
    exact, rounded = (sorted(part, key=lambda p: (p.row, p.rotation)) for part in found)
    assert len(exact) == len(rounded) == 32  # fewer questions than FIRST: all are asked again
    for one, other in zip(exact, rounded, strict=True):
        assert one.log_probabilities == pytest.approx(other.log_probabilities, abs=1e-3)
    assert (tmp_path / "exact.csv").read_text() == (tmp_path / "rounded.csv").read_text()
    (writer,) = (c for c in trainer.callbacks if isinstance(c, PredictionWriter))  # type: ignore[attr-defined]
    assert writer.said is not None and writer.said.startswith("fp8: 8 of 8 answers were close calls")
    report_predictions(trainer, OwnStep(BASE, matmul="fp8"), data)
    assert "8 of 8 answers" in (tmp_path / "rounded.report.html").read_text(encoding="utf-8")


def test_every_stage_that_answers_holds_weights_for_its_own_rows(
    questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once the model is where it computes: Lightning moves it to the CPU in between."""
    held: list[tuple[int, torch.device]] = []
    monkeypatch.setattr(
        stage_model, "unpack_what_fits", lambda model, tokens: held.append((tokens, device_of(model)))
    )
    module = CausalLMModule(BASE)
    for size in (512, 1024):
        trainer = trainer_with(PredictionWriter(tmp_path / f"{size}.csv"), In8Bits(), limit_predict_batches=1)
        monkeypatch.setattr(
            trainer.strategy, "model_to_device", lambda: held.append((0, torch.device("cpu")))
        )
        trainer.predict(module, PredictDataModule(questions, BASE, batch_tokens=size))
    cpu = torch.device("cpu")
    assert held == [(0, cpu), (512, cpu), (0, cpu), (1024, cpu)]


def test_two_ranks_settle_them_together(
    questions: Path, rounded: Path, tmp_path: Path, warm_python: WarmPython
) -> None:
    output, script = tmp_path / "output.csv", tmp_path / "two.py"
    script.write_text(
        "import sys\nfrom pathlib import Path\n"
        "from tests.taigi_lightning.evaluation.test_close_calls import In8Bits, run\n"
        "run(Path(sys.argv[1]), Path(sys.argv[2]), In8Bits(), devices=2, strategy='ddp')\n"
    )
    subprocess.run(
        [warm_python.executable, str(script), str(questions), str(output)],
        env={**os.environ, "PYTHON_EXEC": warm_python.executable, "PYTHONPATH": str(Path.cwd())},
        check=True, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert output.read_text() == rounded.read_text()
