"""….report.html beside the predictions: how certain the answers are, and questions worth looking at."""

from __future__ import annotations

import csv
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from taigi_lightning.errors import InputError
from taigi_lightning.reports.html_page import bar, chart, question_card, tiles, write_page
from taigi_lightning.reports.svg_charts import histogram
from taigi_lightning.tasks.questions import Question

SAMPLES = 10  # questions shown of each kind

Row = Mapping[str, str]  # a question's line of the details, by column


def write_predict_report(predictions: Path, details: Path, questions: Sequence[Question]) -> Path:
    """Write `….report.html` beside a predictions file, aside first and then renamed.

    Args:
        predictions: the `ID,Answer` file.
        details: the file with the four probabilities, as `PredictionWriter` leaves it.
        questions: those that were answered; where they have answers, the report says what was right.

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
    answers = {question.id: int(rows[question.id]["Answer"]) for question in questions}
    known = [question for question in questions if question.answer is not None]
    right = sum(answers[question.id] == question.answer for question in known)
    fallbacks = sum(int(rows[question.id].get("Fallbacks") or 0) > 0 for question in questions)
    figures = {"questions": f"{len(questions):,}"}
    if known:
        figures["right"] = f"{right / len(known):.1%}"
    counted = f"<section class=card><h3>Answers given</h3>{_answer_bars(Counter(answers.values()), known)}</section>"
    if any(rows[question.id].get("Text") for question in questions):
        figures["texts without a number, counted as 1"] = f"{fallbacks:,}"
        parts = ["<h2>Which answers</h2>", f"<div class=charts>{counted}</div>"]
        parts += _groups(_generated(questions, rows, answers), rows, answers)
    else:
        margins = [float(rows[question.id]["Margin"]) for question in questions]
        figures["median margin"] = f"{statistics.median(margins):.2f}" if margins else "-"
        figures["margins below 0.1"] = f"{sum(margin < 0.1 for margin in margins):,}"
        drawing = histogram(margins, "questions by margin", x_name="margin")
        drawn = chart("Questions by margin", drawing, note="of the likeliest answer over the second")
        parts = ["<h2>How certain, and which answers</h2>", f"<div class=charts>{drawn}{counted}</div>"]
        parts += _groups(_compared(questions, rows, answers), rows, answers)
    head = f"<h1>Predictions</h1><p class=lead>{escape(str(predictions))}</p>"
    report = predictions.with_name(f"{predictions.stem}.report.html")
    return write_page(report, f"Predictions: {predictions.name}", [head, tiles(figures), *parts])


def _compared(
    questions: Sequence[Question], rows: Mapping[str, Row], answers: Mapping[str, int]
) -> dict[str, list[Question]]:
    """Questions worth looking at where the probabilities of four answers were compared."""
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
) -> list[str]:
    """The first few questions of each group as cards; a group without any is left out."""
    parts = []
    for title, some in groups.items():
        cards = ""
        for question in some[:SAMPLES]:
            row = rows[question.id]
            text = " ".join((row.get("Text") or "").split())
            note = f"generated: {text}" if text else f"margin {float(row['Margin']):.3f}"
            cards += question_card(question, _probabilities(row), answers[question.id], note=note)
        if cards:
            parts.append(f"<h2>{title}</h2><div class=cards>{cards}</div>")
    return parts


def _probabilities(row: Row) -> tuple[float, ...]:
    return tuple(float(row[f"Probability{place}"]) for place in (1, 2, 3, 4))


def _answer_bars(counts: Mapping[int, int], known: Sequence[Question]) -> str:
    total = max(1, sum(counts.values()))
    truth = Counter(question.answer for question in known)
    lines = []
    for place in (1, 2, 3, 4):
        share = counts.get(place, 0) / total
        beside = f" <small>(truly {truth[place]:,})</small>" if known else ""
        lines.append(bar(str(place), f"{counts.get(place, 0):,}{beside}", share, f"{share:.0%}"))
    return "".join(lines)
