"""Reports of predictions: what was certain, what was wrong, with passage and probabilities."""

import csv
import os
from pathlib import Path

import pytest

from taigi_lightning.errors import InputError
from taigi_lightning.reports.prediction_report import write_predict_report
from taigi_lightning.tasks.questions import Question
from tests.browser import CHROMIUM, check_page, check_width


@pytest.fixture
def predictions(tmp_path: Path) -> tuple[Path, Path, list[Question]]:
    """Three answered questions: right and certain, wrong and certain, undecided."""
    shares = [(0.9, 0.05, 0.03, 0.02), (0.02, 0.95, 0.02, 0.01), (0.26, 0.25, 0.25, 0.24)]
    questions = [
        Question(f"id-{n}", f"阮兜 {n} <b>", "啥人？", ("阿公", "阿媽", "厝--lìn", ""), 1, n)
        for n in (1, 2, 3)
    ]
    answers, details = tmp_path / "out.csv", tmp_path / "out.probabilities.csv"
    answers.write_text("ID,Answer\nid-1,1\nid-2,2\nid-3,1\n")
    names = [f"Probability{place}" for place in (1, 2, 3, 4)]
    with details.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["ID", "Answer", *names, "Margin", "AnswerByOrder", "Text", "Fallbacks"])
        for question, row in zip(questions, shares, strict=True):
            first, second = sorted(row, reverse=True)[:2]
            writer.writerow([question.id, row.index(first) + 1, *row, first - second, "1", "", 0])
    return answers, details, questions


def test_a_prediction_report_shows_passages_and_probabilities(
    predictions: tuple[Path, Path, list[Question]],
) -> None:
    report = write_predict_report(*predictions, {"model": "models/a", "adapter": "b", "questions": "q.csv"})
    assert report.name == "out.report.html"
    page = check_page(report)
    for words in [
        "66.7%",
        "阮兜 1 &lt;b&gt;",
        "厝--lìn",
        "95.0%",
        "<dd>models/a</dd>",
        "<dd>q.csv</dd>",
        "wrong, correct is 1",
    ]:
        assert words in page
    wrong = page[page.index("Wrong, and most certain") : page.index("Least certain")]
    assert "id-2" in wrong
    assert "id-1" not in wrong
    assert page.index("id-3", page.index("Least certain")) < page.index("id-1", page.index("Least certain"))


def test_a_prediction_report_without_known_answers_claims_none(
    predictions: tuple[Path, Path, list[Question]],
) -> None:
    answers, details, questions = predictions
    blank = [Question(q.id, q.passage, q.question, q.options, None, q.row) for q in questions]
    page = check_page(write_predict_report(answers, details, blank))
    assert ">correct<" not in page
    assert "Wrong" not in page


def test_generated_answers_show_their_text_and_claim_no_certainty(
    predictions: tuple[Path, Path, list[Question]],
) -> None:
    answers, details, questions = predictions
    texts = {"id-1": ("1</s>", 1, 0), "id-2": ("2 <i>", 2, 0), "id-3": ("厝內\n有人", 1, 1)}
    with details.open(encoding="utf-8", newline="") as file:
        header, *_ = csv.reader(file)
    with details.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for name, (text, answer, fallback) in texts.items():
            votes = [float(place == answer) for place in (1, 2, 3, 4)]
            writer.writerow([name, answer, *votes, 1.0, answer, text, fallback])
    page = check_page(write_predict_report(answers, details, questions))
    assert "margin</h3>" not in page
    assert "Least certain" not in page
    assert "generated: 2 &lt;i&gt;" in page
    without = page[page.index("Text without a number") : page.index("Text with a number")]
    assert "generated: 厝內 有人" in without
    assert "id-1" not in without


def test_a_question_without_a_prediction_is_named(predictions: tuple[Path, Path, list[Question]]) -> None:
    answers, details, questions = predictions
    more = [*questions, Question("id-9", "", "", ("", "", "", ""), None, 4)]
    with pytest.raises(InputError, match="id-9"):
        write_predict_report(answers, details, more)


@pytest.mark.skipif(CHROMIUM is None and not os.environ.get("CI"), reason="no chromium on this machine")
@pytest.mark.parametrize("width", [360, 1200])
def test_a_browser_shows_the_report_without_scrolling_sideways(
    predictions: tuple[Path, Path, list[Question]], width: int, tmp_path: Path
) -> None:
    check_width(write_predict_report(*predictions), width, tmp_path)
