"""….report.html beside the predictions: how certain the answers are, and questions worth looking at."""

from __future__ import annotations

import csv
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from taigi_lightning.errors import InputError
from taigi_lightning.reports.html_page import Bar, QuestionCard, bar, origins, question_card, write_page
from taigi_lightning.reports.page import Csv, as_csv
from taigi_lightning.reports.svg_charts import histogram
from taigi_lightning.tasks.question_prompt import FOUR_CHOICE
from taigi_lightning.tasks.questions import Question

SAMPLES = 10  # questions shown of each kind

Row = Mapping[str, str]  # a question's line of the details, by column


def write_predict_report(
    predictions: Path,
    details: Path,
    questions: Sequence[Question],
    named: Mapping[str, object] | None = None,
    labels: Sequence[str] = FOUR_CHOICE.answers,
) -> Path:
    """Write `….report.html` beside a predictions file, aside first and then renamed.

    Args:
        predictions: the `ID,Answer` file.
        details: the file with the probabilities, as `PredictionWriter` leaves it.
        questions: those that were answered; where they have answers, the report says what was correct.
        labels: what the answers are called.
        named: what the page names at its top: model, adapter, questions; None names the predictions alone.

    Returns:
        the report's path.

    Raises:
        InputError: a question has no row in the details.
    """
    with details.open(encoding="utf-8-sig", newline="") as file:
        rows = {row["ID"]: row for row in csv.DictReader(file)}
    missing = [question.id for question in questions if question.id not in rows]
    if missing:
        raise InputError(
            f"{details} has no row for question {missing[0]} ({len(missing)} in all). Predict these questions first."
        )
    answers = {question.id: labels.index(rows[question.id]["Answer"]) + 1 for question in questions}
    known = [question for question in questions if question.answer is not None]
    figures = {"questions": f"{len(questions):,}"}
    if known:
        correct = sum(answers[question.id] == question.answer for question in known)
        figures["correct"] = f"{correct / len(known):.1%}"
    margins = None
    if any(rows[question.id].get("Text") for question in questions):
        fallbacks = sum(int(rows[question.id].get("Fallbacks") or 0) > 0 for question in questions)
        figures["texts without a number, counted as 1"] = f"{fallbacks:,}"
        groups = _generated(questions, rows, answers)
    else:
        found = [float(rows[question.id]["Margin"]) for question in questions]
        figures["median margin"] = f"{statistics.median(found):.2f}" if found else "-"
        figures["margins below 0.1"] = f"{sum(margin < 0.1 for margin in found):,}"
        note = "of the likeliest answer over the second"
        margins = histogram("Questions by margin", found, x_name="margin", note=note)
        groups = _compared(questions, rows, answers)
    return write_page(
        predictions.with_name(f"{predictions.stem}.report.html"),
        "prediction.html",
        title=f"Predictions: {predictions.name}",
        heading="Predictions",
        lead="",
        facts=origins({**(named or {}), "predictions": predictions}, predictions.stat().st_mtime),
        figures=figures,
        margins=margins,
        answers=_answer_bars(Counter(answers.values()), known, labels),
        groups=_groups(groups, rows, answers),
        data=_answers_csv(predictions, questions, rows, answers),
    )


def _compared(
    questions: Sequence[Question], rows: Mapping[str, Row], answers: Mapping[str, int]
) -> dict[str, list[Question]]:
    """Questions worth looking at where the probabilities of the answers were compared."""
    by_margin = sorted(questions, key=lambda question: float(rows[question.id]["Margin"]))
    wrong = [q for q in reversed(by_margin) if q.answer is not None and answers[q.id] != q.answer]
    return {
        "Wrong, and most certain of it": wrong,
        "Least certain": by_margin,
        "Most certain": by_margin[::-1],
    }


def _generated(
    questions: Sequence[Question], rows: Mapping[str, Row], answers: Mapping[str, int]
) -> dict[str, list[Question]]:
    """Questions worth looking at where answers were read from text."""
    without = [question for question in questions if int(rows[question.id].get("Fallbacks") or 0) > 0]
    read = [question for question in questions if question not in without]
    return {
        "Wrong": [q for q in read if q.answer is not None and answers[q.id] != q.answer],
        "Text without a number, counted as 1": without,
        "Text with a number": read,
    }


def _groups(
    groups: Mapping[str, Sequence[Question]], rows: Mapping[str, Row], answers: Mapping[str, int]
) -> dict[str, list[QuestionCard]]:
    """The first few questions of each group as cards; a group without any is left out."""
    found = {}
    for title, some in groups.items():
        cards = []
        for question in some[:SAMPLES]:
            row = rows[question.id]
            text = " ".join((row.get("Text") or "").split())
            note = f"generated: {text}" if text else f"margin {float(row['Margin']):.3f}"
            cards.append(question_card(question, _probabilities(row), answers[question.id], note=note))
        if cards:
            found[title] = cards
    return found


def _answers_csv(
    predictions: Path, questions: Sequence[Question], rows: Mapping[str, Row], answers: Mapping[str, int]
) -> Csv:
    """Every answer with its probabilities and, where it is known, the correct one."""
    count = len(questions[0].options) if questions else len(FOUR_CHOICE.answers)
    header = ["ID", "Answer", "Correct", *(f"Probability{place}" for place in range(1, count + 1)), "Margin"]
    lines = (
        [q.id, answers[q.id], q.answer, *_probabilities(rows[q.id]), rows[q.id]["Margin"]] for q in questions
    )
    return as_csv(f"{predictions.stem}.answers.csv", header, lines)


def _probabilities(row: Row) -> tuple[float, ...]:
    return tuple(float(share) for name, share in row.items() if name.startswith("Probability"))


def _answer_bars(counts: Mapping[int, int], known: Sequence[Question], labels: Sequence[str]) -> list[Bar]:
    total = max(1, sum(counts.values()))
    truth = Counter(question.answer for question in known)
    bars = []
    for place, label in enumerate(labels, start=1):
        given = counts.get(place, 0)
        name = f"{given:,} (correct would be {truth[place]:,})" if known else f"{given:,}"
        bars.append(bar(name, given / total, f"{given / total:.0%}", number=label))
    return bars
