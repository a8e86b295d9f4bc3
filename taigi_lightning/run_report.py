"""report.html of a finished run: one file without scripts, to read on a phone or a desk, by day or night."""

from __future__ import annotations

import csv
import json
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from taigi_lightning.charts import Series, histogram, line_chart, smoothed
from taigi_lightning.errors import InputError
from taigi_lightning.questions import Question
from taigi_lightning.report_page import bar, chart, table, tiles, write_page

Metrics = dict[str, list[tuple[float, float]]]  # column → (step, value), where it was logged

REPORT = "report.html"
SAMPLES = 10  # questions shown of each kind
# ---- fit ------------------------------------------------------------------------------------------


def write_fit_report(folder: Path) -> Path:
    """Write `report.html` of a training run into its folder, aside first and then renamed.

    Args:
        folder: what the run wrote: `logs/**/metrics.csv`, and config.yaml and lineage.json where there are.

    Returns:
        the report's path.

    Raises:
        InputError: the folder holds no log.
    """
    metrics = read_metrics(folder)
    config = folder / "config.yaml"
    config_text = config.read_text(encoding="utf-8") if config.is_file() else None
    lineage = read_json(folder / "lineage.json") or read_json(folder / "adapter" / "lineage.json")
    base = lineage["base"].get("name", "") if lineage else ""
    lead = f"{base} → {folder}" if base else str(folder)
    body = [
        f"<h1>Training run</h1><p class=lead>{escape(lead)}</p>",
        tiles(fit_figures(metrics)),
        "<h2>The run's course</h2><div class=charts>",
        *_fit_charts(metrics),
        "</div>",
    ]
    if lineage:
        body.append(f"<h2>Where it comes from</h2><div class=card>{_table(lineage)}</div>")
    if config_text:
        text = escape(config_text)
        body.append(
            f"<h2>Settings</h2><details class=card><summary>config.yaml, resolved</summary><pre>{text}</pre></details>"
        )
    return write_page(folder / REPORT, f"Training run: {folder.name}", body)


def read_metrics(folder: Path) -> Metrics:
    """Every column of a run's newest CSV log, by optimizer step.

    Raises:
        InputError: there is no log.
    """
    logs = sorted(folder.glob("logs/**/metrics.csv"), key=lambda path: path.stat().st_mtime)
    if not logs:
        raise InputError(f"{folder} holds no logs/**/metrics.csv. Give the folder that a `fit` wrote into.")
    metrics: Metrics = {}
    with logs[-1].open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            for name, value in row.items():
                if value and name not in ("epoch", "step"):
                    metrics.setdefault(name, []).append((float(row["step"]), float(value)))
    return metrics


def fit_figures(metrics: Metrics) -> dict[str, str]:
    """The run in a few numbers, for the tiles at the top and for the model card."""
    figures = {}
    if loss := metrics.get("train/loss"):
        tail = [value for _, value in loss[-max(1, len(loss) // 20) :]]
        figures["optimizer steps"] = f"{loss[-1][0] + 1:,.0f}"
        figures["training loss at the end"] = f"{statistics.fmean(tail):.3f}"
    for name, column in (("validation loss", "val/loss"), ("perplexity", "val/perplexity")):
        if column in metrics:
            figures[name] = f"{metrics[column][-1][1]:.3f}"
    if accuracy := metrics.get("val/accuracy"):
        figures["validation accuracy"] = f"{accuracy[-1][1]:.1%}"
    if speed := metrics.get("train/tokens_per_second"):
        figures["tokens per second"] = f"{statistics.median(value for _, value in speed):,.0f}"
    if memory := metrics.get("train/memory_gib"):
        figures["GiB at the peak"] = f"{max(value for _, value in memory):.1f}"
    return figures


def _fit_charts(metrics: Metrics) -> list[str]:
    def columns(name: str) -> tuple[list[float], list[float]]:
        points = metrics.get(name, [])
        return [x for x, _ in points], [y for _, y in points]

    steps, loss = columns("train/loss")
    lines = [Series("each step", steps, loss, "raw")]
    if len(loss) >= 20:
        lines.append(Series("smoothed", steps, smoothed(loss, max(5, len(loss) // 40)), "main"))
    if "val/loss" in metrics:
        lines.append(Series("validation", *columns("val/loss"), "other"))
    charts = [chart("Loss", line_chart(lines, "loss by step"), lines)]
    rest = [
        ("Validation accuracy", "val/accuracy", False),
        ("Learning rate", "train/learning_rate", True),
        ("Gradient norm", "train/grad_norm", True),
        ("Tokens per second", "train/tokens_per_second", True),
        ("Memory, GiB reserved", "train/memory_gib", True),
    ]
    for title, name, zero in rest:
        if name in metrics:
            lines = [Series(title, *columns(name))]
            charts.append(chart(title, line_chart(lines, f"{title} by step", zero=zero)))
    return charts


def lineage_rows(lineage: Mapping[str, Any]) -> list[tuple[str, str]]:
    """A model's ancestors, youngest first: each stage's base and its data, as text."""
    rows: list[tuple[str, str]] = []
    one: Mapping[str, Any] | None = lineage
    while one:
        base, data = one.get("base") or {}, one.get("data") or {}
        if data.get("path"):
            rows.append(("trained on", f"{data['path']} (SHA-256 {str(data.get('sha256'))[:12]})"))
        rows.append(("base", f"{base.get('name')}, {base.get('quantization', 'unquantised')}"))
        one = base.get("lineage")
    return rows


def _table(lineage: Mapping[str, Any]) -> str:
    return table(lineage_rows(lineage))


# ---- predict --------------------------------------------------------------------------------------


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
    groups = [("Least certain", by_margin[:SAMPLES]), ("Most certain", by_margin[::-1][:SAMPLES])]
    if known:
        groups.insert(0, ("Wrong, and most certain of it", wrong[:SAMPLES]))
    figures = {"questions": f"{len(questions):,}"}
    if known:
        figures["right"] = f"{1 - len(wrong) / len(known):.1%}"
    figures["median margin"] = f"{statistics.median(margins.values()):.2f}" if margins else "-"
    figures["closer than 0.1"] = f"{sum(margin < 0.1 for margin in margins.values()):,}"
    figures["fallbacks"] = f"{sum(int(rows[q.id].get('Fallbacks') or 0) > 0 for q in questions):,}"
    counts = Counter(answers.values())
    body = [
        f"<h1>Predictions</h1><p class=lead>{escape(str(predictions))}</p>",
        tiles(figures),
        "<h2>How certain, and which answers</h2><div class=charts>",
        chart(
            "Margin between the two likeliest answers",
            histogram(list(margins.values()), "margins", x_name="margin"),
        ),
        f"<section class=card><h3>Answers given</h3>{_answer_bars(counts, known)}</section></div>",
    ]
    for title, some in groups:
        if some:
            samples = "".join(_sample(q, shares[q.id], answers[q.id], margins[q.id]) for q in some)
            body.append(f"<h2>{title}</h2>{samples}")
    report = predictions.with_name(f"{predictions.stem}.{REPORT}")
    return write_page(report, f"Predictions: {predictions.name}", body)


def _probabilities(row: Mapping[str, str]) -> tuple[float, ...]:
    return tuple(float(row[f"Probability{place}"]) for place in (1, 2, 3, 4))


def _answer_bars(counts: Mapping[int, int], known: Sequence[Question]) -> str:
    total = max(1, sum(counts.values()))
    truth = Counter(question.answer for question in known)
    lines = []
    for place in (1, 2, 3, 4):
        share = counts.get(place, 0) / total
        beside = f" <small>(right: {truth[place]:,})</small>" if known else ""
        lines.append(bar(str(place), f"{counts.get(place, 0):,}{beside}", share, f"{share:.0%}", chosen=True))
    return "".join(lines)


def _sample(question: Question, shares: Sequence[float], answer: int, margin: float) -> str:
    verdict = ""
    if question.answer is not None:
        kind, word = (
            ("right", "right")
            if question.answer == answer
            else ("wrong", f"wrong, right is {question.answer}")
        )
        verdict = f'<span class="{kind}">{word}</span>'
    options = []
    for place, (text, share) in enumerate(zip(question.options, shares, strict=True), start=1):
        mark = ' <span class="right">✓</span>' if place == question.answer else ""
        options.append(bar(str(place), escape(text) + mark, share, f"{share:.1%}", chosen=place == answer))
    return (
        f'<article class="card sample"><div class=head><span>ID {escape(question.id)}</span>'
        f"<span>margin {margin:.3f}</span>{verdict}</div>"
        f'<div lang="nan-Hant-TW"><p class=passage>{escape(question.passage)}</p>'
        f"<p class=ask>{escape(question.question)}</p>{''.join(options)}</div></article>"
    )


def read_json(path: Path) -> Any:
    """What a JSON file holds, or None where there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
