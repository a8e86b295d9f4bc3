"""What `test` reports."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest

from taigi_lightning.data.predict import PredictDataModule
from taigi_lightning.evaluation import test_report
from taigi_lightning.evaluation.predictions import Prediction
from taigi_lightning.evaluation.scoring import position_bias
from taigi_lightning.evaluation.test_report import AnswerReport, by_question
from taigi_lightning.tasks.question_prompt import QuestionPrompt
from taigi_lightning.training.module import CausalLMModule
from tests.taigi_lightning.question_csv import WITH_ANSWERS, write_csv


@pytest.fixture
def answered_file(tmp_path: Path) -> Path:
    """Ten questions with their answers, in the training file's columns and without IDs."""
    passages = "早起時仔，阿母佇灶跤煮糜。" * 5, "阮兜蹛佇台南。"
    rows = [
        [passages[n % 2], f"第{n}个問題？", "市仔", "學校", f"厝{n}", "海邊", n % 4 + 1] for n in range(10)
    ]
    return write_csv(tmp_path / "AI_conv.csv", WITH_ANSWERS, rows)


def run_test(
    path: Path, base: Path, batches: int | None = None, **options: Any
) -> tuple[AnswerReport, list[Any]]:
    report = AnswerReport()
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, callbacks=[report], limit_test_batches=batches,
    )  # fmt: skip
    data = PredictDataModule(path, str(base), batch_tokens=700, **options)
    return report, trainer.test(CausalLMModule(str(base), quantization="none"), data)  # type: ignore[return-value]


def test_it_prints_accuracy_interval_and_confusion(
    answered_file: Path, tiny_llama_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report, metrics = run_test(answered_file, tiny_llama_dir)
    assert report.score is not None
    assert report.score.expected == (3, 3, 2, 2)
    assert metrics[0]["test/accuracy"] == pytest.approx(report.score.accuracy)
    printed = capsys.readouterr().out
    assert f"{report.score.correct} of 10 correct" in printed
    assert "follows its option" not in printed


def test_rotated_options_show_the_bias(
    answered_file: Path, tiny_llama_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, metrics = run_test(answered_file, tiny_llama_dir, average_orders=True)
    assert 0 <= metrics[0]["test/follows"] <= 1
    assert "follows its option" in capsys.readouterr().out


@pytest.mark.parametrize(("options", "labels", "names"), [(2, "digits", "12"), (10, "letters", "ABCDEFGHIJ")])
def test_other_questions_than_of_four_options_are_reported_by_their_own_names(
    tmp_path: Path,
    tiny_llama_dir: Path,
    capsys: pytest.CaptureFixture[str],
    options: int,
    labels: Any,
    names: str,
) -> None:
    columns = ["文章", "問題", *(f"選項{n + 1}" for n in range(options)), "正確答案"]
    rows = [
        ["阮兜蹛佇台南。" * 9, f"第{n}个？", *"市學厝海山田廟橋溪路"[:options], names[n % options]]
        for n in range(6)
    ]
    file = write_csv(tmp_path / "asked.csv", columns, rows)
    prompt = QuestionPrompt(options=options, labels=labels)
    report, metrics = run_test(file, tiny_llama_dir, average_orders=True, prompt=prompt)
    assert report.score is not None and len(report.score.confusion) == options
    printed = capsys.readouterr().out
    assert f"{report.score.correct} of 6 correct" in printed and f"│ {names[-1]} " in printed
    assert all(f"predicted {name}" in printed or f"┃ {name} ┃" in printed for name in names)
    assert 0 <= metrics[0]["test/follows"] <= 1


def test_orders_that_a_limit_left_out_say_nothing_of_the_bias(
    answered_file: Path, tiny_llama_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[list[str]] = []

    def noted(orders: list[str]) -> dict[str, float]:
        counted.append(orders)
        return position_bias(orders)

    monkeypatch.setattr(test_report, "position_bias", noted)
    _, metrics = run_test(answered_file, tiny_llama_dir, 2, average_orders=True, share_passages=False)
    assert ("test/follows" in metrics[0]) == bool(counted)
    assert all(len(order) == 4 for orders in counted for order in orders)


def test_orders_become_one_answer_in_the_inputs_order() -> None:
    def turn(row: int, rotation: int, answer: int) -> Prediction:
        return Prediction(row, f"q{row}", answer, None, str(answer), False, rotation)

    predictions = [turn(2, 1, 3), turn(1, 0, 4), turn(2, 0, 2), turn(1, 1, 4), turn(2, 2, 3)]
    assert by_question(predictions) == ([("q1", 4), ("q2", 3)], ["44", "233"])
