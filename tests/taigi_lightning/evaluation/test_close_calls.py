"""Close calls of an answering in 8 bits: which are asked again, and that the files then have what 16 bits answer."""

import logging
import os
import random
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest

from taigi_lightning.data.predict import PredictDataModule
from taigi_lightning.evaluation.close_calls import FIRST, LEFT, ask_closest, how_many, margin
from taigi_lightning.evaluation.prediction_writer import PredictionWriter
from taigi_lightning.evaluation.predictions import Prediction
from taigi_lightning.evaluation.scoring import read_answers
from taigi_lightning.evaluation.test_report import AnswerReport
from taigi_lightning.fast_path.apply import apply_fast_path, compute_in, fast_decoder
from taigi_lightning.training.module import CausalLMModule
from tests.taigi_lightning.evaluation.test_prediction_writer import KillAfter, KilledError
from tests.taigi_lightning.question_csv import TO_ANSWER, write_csv
from tests.warm_python import WarmPython

BASE = "models/tiny-taigi"
COUNT = 48
WORDS = ["市仔", "學校", "厝", "海邊", "山頂", "病院", "公園", "車頭", "廟", "田"]


def prediction(row: int, log_probabilities: Sequence[float]) -> Prediction:
    best = max(range(len(log_probabilities)), key=lambda option: log_probabilities[option])
    return Prediction(row, str(row), best + 1, tuple(log_probabilities), None, False)


def answers(count: int, noise: float) -> tuple[dict[Any, Prediction], dict[Any, Prediction]]:
    """As 16 bits give them, and moved at random, by row and rotation."""
    draw = random.Random(0)
    exact = {(n, 0): prediction(n, [draw.gauss(0, 1.5) for _ in range(4)]) for n in range(count)}
    moved = {
        key: prediction(p.row, [v + draw.gauss(0, noise) for v in p.log_probabilities or ()])
        for key, p in exact.items()
    }
    return exact, moved


def differing(one: dict[Any, Prediction], other: dict[Any, Prediction]) -> float:
    return sum(one[key].answer != other[key].answer for key in one) / len(one)


@pytest.mark.parametrize("noise", [0.01, 0.05, 0.15])
def test_so_many_are_asked_again_that_few_others_differ(noise: float) -> None:
    exact, moved = answers(4000, noise)
    asked: list[Any] = []

    def ask(keys: Sequence[Any]) -> list[Prediction]:
        asked.extend(keys)
        return [exact[key] for key in keys]

    again, left = ask_closest(moved, ask)
    assert len(asked) == len(set(asked)) == len(again) < 0.25 * len(moved)
    assert max(margin(moved[key]) for key in asked) <= min(
        margin(p) for key, p in moved.items() if key not in again
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
    again, left = ask_closest(exact, lambda keys: [exact[key] for key in keys])
    assert (len(again), left) == (FIRST, 0.0)
    few = dict(list(exact.items())[:5])
    assert ask_closest(few, lambda keys: [exact[key] for key in keys])[0] == few
    assert how_many([], 1.0, 0.1) == (0, 0.0)


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
