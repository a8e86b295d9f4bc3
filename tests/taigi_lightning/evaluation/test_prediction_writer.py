"""Predictions on disk: complete, in order, and continued after a kill."""

import csv
import json
import math
import os
import subprocess
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest

from taigi_lightning.data.predict import PredictDataModule
from taigi_lightning.errors import InputError
from taigi_lightning.evaluation.journal import journals
from taigi_lightning.evaluation.prediction_writer import (
    PredictionWriter,
    probabilities_path,
    write_predictions,
)
from taigi_lightning.evaluation.predictions import Prediction
from taigi_lightning.evaluation.run_reports import report_predictions
from taigi_lightning.evaluation.scoring import read_answers
from taigi_lightning.training.module import CausalLMModule
from tests.taigi_lightning.question_csv import TO_ANSWER, write_csv
from tests.warm_python import WarmPython

QUESTIONS = 13
PASSAGES = ["阿明下晡欲去市仔買菜。\n伊毋知影按怎行。", "早起時仔，阿母佇灶跤煮糜。" * 6, "阮兜蹛佇台南。"]


@pytest.fixture
def questions_file(tmp_path: Path) -> Path:
    rows = [
        [f"{n}2537", PASSAGES[n % 3], f"第{n}个問題？", "市仔", "學校", f"厝{n}", "海邊"]
        for n in range(QUESTIONS)
    ]
    return write_csv(tmp_path / "questions.csv", TO_ANSWER, rows, "utf-8-sig")


class KilledError(Exception):
    """Stands in for SIGKILL: nothing of ours catches it."""


class KillAfter(pl.Callback):
    def __init__(self, batches: int) -> None:
        self.batches = batches

    def on_predict_batch_start(self, *_: Any) -> None:
        self.batches -= 1
        if self.batches < 0:
            raise KilledError


class CountQuestions(pl.Callback):
    def __init__(self) -> None:
        self.rows: list[int] = []

    def on_predict_batch_start(self, trainer: Any, pl_module: Any, batch: Any, *_: Any) -> None:
        self.rows += [question.row for question in batch.questions]


def trainer_with(*callbacks: pl.Callback, limit: int | None = None) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, use_distributed_sampler=False, callbacks=list(callbacks),
        limit_predict_batches=limit,
    )  # fmt: skip


def predict(
    questions: Path,
    base: Path,
    output: Path,
    *callbacks: pl.Callback,
    strategy: Any = "choice",
    **options: Any,
) -> list[list[Prediction]]:
    """What `python -m taigi_lightning predict` does."""
    trainer = trainer_with(PredictionWriter(output), *callbacks, limit=options.pop("limit", None))
    module = CausalLMModule(str(base), quantization="none", answer_strategy=strategy)
    data = PredictDataModule(questions, str(base), **{"batch_tokens": 600, **options})
    return trainer.predict(module, data)  # type: ignore[return-value]


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_every_question_once_and_in_order(questions_file: Path, tiny_llama_dir: Path, tmp_path: Path) -> None:
    output = tmp_path / "new" / "output-CPT&SFT_V2.csv"
    batches = predict(questions_file, tiny_llama_dir, output)
    assert len(batches) > 1
    assert output.read_text().startswith("ID,Answer\n02537,")
    rows = table(output)
    assert [row["ID"] for row in rows] == [f"{row}2537" for row in range(QUESTIONS)]
    found = {p.id: str(p.answer) for batch in batches for p in batch}
    assert {row["ID"]: row["Answer"] for row in rows} == found
    assert sorted(p.name for p in output.parent.iterdir()) == [
        "output-CPT&SFT_V2.csv",
        "output-CPT&SFT_V2.probabilities.csv",
    ]


def test_the_probabilities_explain_the_answer(
    questions_file: Path, tiny_llama_dir: Path, tmp_path: Path
) -> None:
    output = tmp_path / "output.csv"
    predict(questions_file, tiny_llama_dir, output)
    for row in table(probabilities_path(output)):
        shares = [float(row[f"Probability{place}"]) for place in (1, 2, 3, 4)]
        assert sum(shares) == pytest.approx(1, abs=1e-5)
        assert shares[int(row["Answer"]) - 1] == pytest.approx(max(shares), abs=1e-4)
        first, second = sorted(shares, reverse=True)[:2]
        assert float(row["Margin"]) == pytest.approx(first - second, abs=2e-6)


def test_a_killed_run_continues_and_ends_the_same(
    questions_file: Path, tiny_llama_dir: Path, tmp_path: Path
) -> None:
    whole, output = tmp_path / "whole.csv", tmp_path / "output.csv"
    predict(questions_file, tiny_llama_dir, whole)
    with pytest.raises(KilledError):
        predict(questions_file, tiny_llama_dir, output, KillAfter(2))
    assert not output.exists()
    done = len(journals(output)[0].read_text().splitlines()) - 1
    assert 0 < done < QUESTIONS
    with journals(output)[0].open("a") as journal:
        journal.write('[9, "82537", 1, [-1.5, -2')  # the line the kill cut off
    again = CountQuestions()
    predict(questions_file, tiny_llama_dir, output, again)
    assert len(again.rows) == QUESTIONS - done
    assert output.read_bytes() == whole.read_bytes()
    assert journals(output) == []


def test_a_run_killed_when_all_was_answered_still_writes(
    questions_file: Path, tiny_llama_dir: Path, tmp_path: Path
) -> None:
    output = tmp_path / "output.csv"

    class KillAtEnd(pl.Callback):
        def on_predict_epoch_end(self, *_: Any) -> None:
            raise KilledError

    with pytest.raises(KilledError):
        predict(questions_file, tiny_llama_dir, output, KillAtEnd())
    again = CountQuestions()
    predict(questions_file, tiny_llama_dir, output, again)
    assert again.rows == []
    assert len(table(output)) == QUESTIONS


@pytest.mark.parametrize("change", ["questions", "strategy"])
def test_answers_of_another_run_are_not_mixed_in(
    change: str,
    questions_file: Path,
    tiny_llama_dir: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    output = tmp_path / "output.csv"
    with pytest.raises(KilledError):
        predict(questions_file, tiny_llama_dir, output, KillAfter(1))
    if change == "questions":
        questions_file.write_text(questions_file.read_text("utf-8-sig").replace("市仔", "菜市"), "utf-8-sig")
    again = CountQuestions()
    strategy = "generate" if change == "strategy" else "choice"
    predict(questions_file, tiny_llama_dir, output, again, strategy=strategy)
    assert f"another {change}: not used, kept as output.csv.journal-0.old" in caplog.text
    assert sorted(again.rows) == list(range(1, QUESTIONS + 1))


def test_a_limited_run_writes_no_output(
    questions_file: Path, tiny_llama_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output = tmp_path / "output.csv"
    predict(questions_file, tiny_llama_dir, output, limit=1)
    assert "questions are unanswered" in caplog.text
    assert not output.exists()


def test_a_limited_run_reports_no_earlier_runs_answers_as_its_own(
    questions_file: Path, tiny_llama_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "output.csv"
    module = CausalLMModule(str(tiny_llama_dir), quantization="none")
    for limit, reported in ((None, True), (1, False)):
        trainer = trainer_with(PredictionWriter(output), limit=limit)
        data = PredictDataModule(questions_file, str(tiny_llama_dir), batch_tokens=600)
        trainer.predict(module, data)
        report_predictions(trainer, module, data)
        assert (f"Report: {tmp_path / 'output.report.html'}" in capsys.readouterr().out) == reported
    assert output.exists()


def test_a_folder_as_output_is_refused_before_predicting(
    questions_file: Path, tiny_llama_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="is a folder; the answers need a file"):
        predict(questions_file, tiny_llama_dir, tmp_path)


def test_generated_answers_come_with_their_text(
    questions_file: Path, tiny_llama_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output = tmp_path / "output.csv"
    predict(questions_file, tiny_llama_dir, output, strategy="generate")
    details = table(probabilities_path(output))
    fallbacks = sum(row["Fallbacks"] == "1" for row in details)
    assert f"Of {QUESTIONS} questions {fallbacks} have a generated text that does not begin" in caplog.text
    assert {row["Answer"] for row in details if row["Fallbacks"] == "1"} == {"1"}
    assert any(row["Text"] for row in details)


def test_averaged_orders_leave_one_answer_a_question(
    questions_file: Path, tiny_llama_dir: Path, tmp_path: Path
) -> None:
    output = tmp_path / "output.csv"
    predict(questions_file, tiny_llama_dir, output, average_orders=True)
    assert len(table(output)) == QUESTIONS
    assert {len(row["AnswerByOrder"]) for row in table(probabilities_path(output))} == {4}


def test_two_devices_write_one_file(
    questions_file: Path, tiny_llama_dir: Path, tmp_path: Path, warm_python: WarmPython
) -> None:
    """Two processes, joined by gloo; a journal that one device left is continued by two."""
    whole, output = tmp_path / "whole.csv", tmp_path / "output.csv"
    predict(questions_file, tiny_llama_dir, whole)
    with pytest.raises(KilledError):
        predict(questions_file, tiny_llama_dir, output, KillAfter(1))
    script = tmp_path / "two.py"
    script.write_text(
        "import sys\n"
        "import lightning.pytorch as pl\n"
        "from taigi_lightning.training.module import CausalLMModule\n"
        "from taigi_lightning.data.predict import PredictDataModule\n"
        "from taigi_lightning.evaluation.prediction_writer import PredictionWriter\n"
        "questions, base, output = sys.argv[1:]\n"
        "trainer = pl.Trainer(accelerator='cpu', devices=2, strategy='ddp', logger=False,\n"
        "    enable_progress_bar=False, enable_checkpointing=False, callbacks=[PredictionWriter(output)])\n"
        "trainer.predict(CausalLMModule(base, quantization='none'),\n"
        "    PredictDataModule(questions, base, batch_tokens=300), return_predictions=False)\n"
    )
    subprocess.run(
        [warm_python.executable, str(script), str(questions_file), str(tiny_llama_dir), str(output)],
        env={**os.environ, "PYTHON_EXEC": warm_python.executable},
        check=True,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert output.read_bytes() == whole.read_bytes()
    assert journals(output) == []


# ---- the parts ------------------------------------------------------------------------------------


def turn(answer: int, *probabilities: float, rotation: int = 0, text: str | None = None) -> Prediction:
    logs = tuple(map(math.log, probabilities)) if probabilities else None
    return Prediction(1, "a", answer, logs, text, False, rotation)  # type: ignore[arg-type]


def test_excel_knows_the_encoding_and_other_readers_do_not_mind(tmp_path: Path) -> None:
    output = tmp_path / "out.csv"
    write_predictions(output, [turn(1, 0.4, 0.3, 0.2, 0.1)], excel=True)
    for path in (output, probabilities_path(output)):
        assert path.read_bytes().startswith(b"\xef\xbb\xbfID,Answer")
    assert read_answers(output) == read_answers(output.with_name("out.probabilities.csv"))


def test_the_files_exactly(tmp_path: Path) -> None:
    output = tmp_path / "answers.csv"
    write_predictions(output, [turn(1, 0.4, 0.3, 0.2, 0.1)])
    assert output.read_bytes() == b"ID,Answer\na,1\n"
    assert (tmp_path / "answers.probabilities.csv").read_text() == (
        "ID,Answer,Probability1,Probability2,Probability3,Probability4,Margin,AnswerByOrder,Text,Fallbacks\n"
        "a,1,0.400000,0.300000,0.200000,0.100000,0.100000,1,,0\n"
    )


def test_a_prediction_survives_the_journal() -> None:
    prediction = turn(2, 0.1, 0.7, 0.1, 0.1, rotation=3)
    restored = Prediction(*json.loads(json.dumps(prediction)))
    assert restored._replace(log_probabilities=tuple(restored.log_probabilities or ())) == prediction  # type: ignore[arg-type]
