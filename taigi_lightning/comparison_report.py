"""A comparison of models as CSV and as one HTML file that needs nothing else."""

from __future__ import annotations

import csv
import html
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rich.table import Table

from taigi_lightning.scoring import Score

HEADER = (
    "Model", "Shots", "Correct", "Total", "Accuracy", "Low", "High", "PValue", "PerplexityPerCharacter",
    "Seconds",
)  # fmt: skip
CHANCE = 0.25


class ComparedRow(NamedTuple):
    """One model with one number of solved examples.

    Args:
        p_value: McNemar's exact test against the first model with as many examples.
        perplexity: per character of the held-out corpus, if there is one.
        seconds: wall-clock time of the answers.
    """

    model: str
    shots: int
    score: Score
    p_value: float
    perplexity: float | None
    seconds: float


def write_comparison(folder: Path, rows: Sequence[ComparedRow]) -> None:
    """Write `comparison.csv` and `comparison.html`, each aside first and then renamed."""
    aside = folder / "comparison.csv.partial"
    with aside.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(HEADER)
        writer.writerows(_cells(row) for row in rows)
    aside.replace(folder / "comparison.csv")
    aside = folder / "comparison.html.partial"
    aside.write_text(comparison_html(rows), encoding="utf-8")
    aside.replace(folder / "comparison.html")


def comparison_table(rows: Sequence[ComparedRow]) -> Table:
    """The comparison for a terminal."""
    table = Table("model", "shots", "accuracy (95 %)", "p against the first", "perplexity/character")
    for row in rows:
        low, high = row.score.interval
        table.add_row(
            row.model,
            str(row.shots),
            f"{row.score.accuracy:.1%} ({low:.1%} to {high:.1%})",
            f"{row.p_value:.3g}",
            "" if row.perplexity is None else f"{row.perplexity:.2f}",
        )
    return table


def comparison_html(rows: Sequence[ComparedRow]) -> str:
    """The comparison as one page: a plot of the intervals above the table."""
    head = "".join(f"<th>{name}</th>" for name in HEADER)
    body = "".join(
        f"<tr>{''.join(f'<td>{html.escape(str(cell))}</td>' for cell in _cells(row))}</tr>\n" for row in rows
    )
    total = rows[0].score.total if rows else 0
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Comparison</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }}
table {{ border-collapse: collapse }}
td, th {{ padding: .2rem .6rem; border-bottom: 1px solid #ccc; text-align: right }}
td:first-child, th:first-child {{ text-align: left }}
</style>
<h1>Accuracy on {total} questions</h1>
{interval_plot(rows)}
<table><thead><tr>{head}</tr></thead><tbody>
{body}</tbody></table>
<p>Low and High bound the 95 % Wilson interval; the dashed line is chance. PValue is McNemar's exact test
against the first model with as many solved examples.</p>
</html>
"""


def interval_plot(rows: Sequence[ComparedRow]) -> str:
    """An inline SVG: for each row its accuracy and 95 % interval on an axis from 0 to 1."""
    left, width, step = 220, 560, 28
    height = step * len(rows) + 40

    def x(share: float) -> float:
        return left + width * share

    ticks = "".join(
        f'<line x1="{x(t):.1f}" x2="{x(t):.1f}" y1="8" y2="{height - 28}" stroke="#ddd"/>'
        f'<text x="{x(t):.1f}" y="{height - 10}" text-anchor="middle">{t:.0%}</text>'
        for t in (0, 0.2, 0.4, 0.6, 0.8, 1)
    )
    marks = ""
    for place, row in enumerate(rows):
        y = 8 + step * (place + 0.5)
        low, high = row.score.interval
        label = html.escape(f"{row.model}, {row.shots}-shot")
        marks += (
            f'<text x="{left - 10}" y="{y + 5:.1f}" text-anchor="end">{label}</text>'
            f'<line x1="{x(low):.1f}" x2="{x(high):.1f}" y1="{y:.1f}" y2="{y:.1f}" stroke="#357" '
            'stroke-width="3"/>'
            f'<circle cx="{x(row.score.accuracy):.1f}" cy="{y:.1f}" r="5" fill="#357">'
            f"<title>{row.score.accuracy:.1%}</title></circle>"
        )
    chance = (
        f'<line x1="{x(CHANCE):.1f}" x2="{x(CHANCE):.1f}" y1="8" y2="{height - 28}" stroke="#a33" '
        'stroke-dasharray="4 4"/>'
    )
    return (
        f'<svg viewBox="0 0 {left + width + 40} {height}" width="100%" font-size="13" role="img" '
        f'aria-label="accuracy with 95 % intervals">{ticks}{chance}{marks}</svg>'
    )


def _cells(row: ComparedRow) -> list[object]:
    low, high = row.score.interval
    return [
        row.model,
        row.shots,
        row.score.correct,
        row.score.total,
        f"{row.score.accuracy:.4f}",
        f"{low:.4f}",
        f"{high:.4f}",
        f"{row.p_value:.4g}",
        "" if row.perplexity is None else f"{row.perplexity:.4f}",
        f"{row.seconds:.1f}",
    ]
