"""….report.html beside the predictions: how certain the answers are, and questions worth looking at."""

from __future__ import annotations

import csv
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from taigi_lightning.charts import histogram
from taigi_lightning.errors import InputError
from taigi_lightning.questions import Question
from taigi_lightning.report_page import bar, chart, question_card, tiles, write_page

SAMPLES = 10  # questions shown of each kind


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
    shares = {question.id: _probabilities(rows[question.id]) for question in questions}
    margins = {question.id: float(rows[question.id]["Margin"]) for question in questions}
    answers = {question.id: int(rows[question.id]["Answer"]) for question in questions}
    by_margin = sorted(questions, key=lambda question: margins[question.id])
    known = [question for question in questions if question.answer is not None]
    wrong = [q for q in reversed(by_margin) if q.answer is not None and answers[q.id] != q.answer]
    figures = {"questions": f"{len(questions):,}"}
    if known:
        figures["right"] = f"{1 - len(wrong) / len(known):.1%}"
    figures["median margin"] = f"{statistics.median(margins.values()):.2f}" if margins else "-"
    figures["margins below 0.1"] = f"{sum(margin < 0.1 for margin in margins.values()):,}"
    figures["fallbacks"] = f"{sum(int(rows[q.id].get('Fallbacks') or 0) > 0 for q in questions):,}"
    drawing = histogram(list(margins.values()), "questions by margin", x_name="margin")
    body = [
        f"<h1>Predictions</h1><p class=lead>{escape(str(predictions))}</p>",
        tiles(figures),
        "<h2>How certain, and which answers</h2><div class=charts>",
        chart("Questions by margin", drawing, note="of the likeliest answer over the second"),
        f"<section class=card><h3>Answers given</h3>{_answer_bars(Counter(answers.values()), known)}</section></div>",
    ]
    groups = [("Least certain", by_margin[:SAMPLES]), ("Most certain", by_margin[::-1][:SAMPLES])]
    if known:
        groups.insert(0, ("Wrong, and most certain of it", wrong[:SAMPLES]))
    for title, some in groups:
        if some:
            cards = "".join(
                question_card(q, shares[q.id], answers[q.id], note=f"margin {margins[q.id]:.3f}")
                for q in some
            )
            body.append(f"<h2>{title}</h2><div class=cards>{cards}</div>")
    report = predictions.with_name(f"{predictions.stem}.report.html")
    return write_page(report, f"Predictions: {predictions.name}", body)


def _probabilities(row: Mapping[str, str]) -> tuple[float, ...]:
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
