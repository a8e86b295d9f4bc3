"""A comparison of models as CSV, for a terminal, and as one HTML file that needs nothing else."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

from rich.table import Table

from taigi_lightning.atomic_write import written_aside
from taigi_lightning.evaluation.scoring import Score
from taigi_lightning.reports.html_page import write_page

HEADER = (
    "Model", "Shots", "Correct", "Total", "Accuracy", "Low", "High", "PValue", "PerplexityPerCharacter",
    "Seconds",
)  # fmt: skip
CHANCE = 0.25
NOTE = (
    "The 95 % interval is Wilson's. p is McNemar's exact test against the first model with as many solved "
    "examples: how often chance alone would split so unevenly the questions that only one of the two gets right."
)
STYLE = """<style>
.interval{display:grid;grid-template-columns:1fr auto;gap:.1rem .8rem;margin:.7rem 0}
.interval span{overflow-wrap:anywhere}
.interval b,.axis,.numbers td{font-variant-numeric:tabular-nums}
.scale{grid-column:1/3;position:relative;height:1rem;background:var(--track);border-radius:.3rem}
.scale i{position:absolute;top:.375rem;height:.25rem;border-radius:.2rem;background:var(--main)}
.scale b{position:absolute;top:.2rem;width:.6rem;height:.6rem;margin-left:-.3rem;border-radius:50%;
background:var(--main)}
.scale u{position:absolute;top:-.2rem;bottom:-.2rem;border-left:2px dashed var(--other)}
.axis{position:relative;height:1.4rem;color:var(--soft);font-size:.85rem}
.axis span{position:absolute;transform:translateX(-50%)}
.axis span:first-child{transform:none}.axis span:last-child{transform:translateX(-100%)}
.wide{overflow-x:auto}
.numbers th,.numbers td{text-align:right;white-space:nowrap;width:auto;padding-right:0;padding-left:1rem}
.numbers th:first-child,.numbers td:first-child{text-align:left;white-space:normal;min-width:7rem;padding-left:0}
.numbers th{border-top:0;vertical-align:bottom}
</style>"""


class ComparedRow(NamedTuple):
    """One model with one number of solved examples.

    Args:
        p_value: McNemar's exact test against the first model with as many examples; None for that one.
        perplexity: per character of the held-out corpus, if there is one.
        seconds: wall-clock time of the answers.
    """

    model: str
    shots: int
    score: Score
    p_value: float | None
    perplexity: float | None
    seconds: float


def write_comparison(folder: Path, rows: Sequence[ComparedRow]) -> None:
    """Write `comparison.csv` and `comparison.html` of one or more rows, each aside first and then renamed."""
    with (
        written_aside(folder / "comparison.csv") as aside,
        aside.open("w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(HEADER)
        writer.writerows(_cells(row) for row in rows)
    body = [
        STYLE,
        f"<h1>Accuracy on {rows[0].score.total:,} questions</h1>",
        "<p class=lead>with 95 % intervals; the dashed line is chance</p>",
        interval_plot(rows),
        f"<h2>The figures</h2>{figures_table(rows)}<p class=none>{NOTE}</p>",
    ]
    write_page(folder / "comparison.html", "Models compared", body)


def comparison_table(rows: Sequence[ComparedRow]) -> Table:
    """The comparison for a terminal of 80 columns."""
    figures = [{k: v for k, v in row.items() if k not in ("right", "seconds")} for row in _figures(rows)]
    table = Table()
    for name in figures[0]:
        table.add_column(name, justify="left" if name == "model" else "right")
    for row in figures:
        table.add_row(*row.values())
    return table


# ---- the page -------------------------------------------------------------------------------------


def interval_plot(rows: Sequence[ComparedRow]) -> str:
    """For each row its accuracy as a point and its 95 % interval as a line, on a scale from 0 to 100 %."""
    lines = []
    for row in rows:
        low, high = row.score.interval
        examples = f"{row.shots} solved example{'s' if row.shots > 1 else ''}" if row.shots else "no examples"
        lines.append(
            f"<div class=interval><span>{escape(row.model)} <small class=none>{examples}</small></span>"
            f'<b>{row.score.accuracy:.1%}</b><div class=scale><u style="left:{CHANCE:.0%}"></u>'
            f'<i style="left:{low:.2%};width:{high - low:.2%}"></i>'
            f'<b style="left:{row.score.accuracy:.2%}"></b></div></div>'
        )
    axis = "".join(f'<span style="left:{share}%">{share}%</span>' for share in (0, 25, 50, 75, 100))
    return f"<section class=card>{''.join(lines)}<div class=axis>{axis}</div></section>"


def figures_table(rows: Sequence[ComparedRow]) -> str:
    """All figures, a line for each row."""
    figures = _figures(rows)
    head = "".join(f"<th>{escape(name)}</th>" for name in figures[0])
    lines = ("".join(f"<td>{escape(value)}</td>" for value in row.values()) for row in figures)
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<section class="card wide"><table class=numbers><tr>{head}</tr>{body}</table></section>'


# ---- cells ----------------------------------------------------------------------------------------


def _figures(rows: Sequence[ComparedRow]) -> list[dict[str, str]]:
    """Each row as it is read, by column; perplexity only where it was measured."""
    found = []
    for row in rows:
        low, high = row.score.interval
        figures = {
            "model": row.model,
            "shots": str(row.shots),
            "right": f"{row.score.correct} of {row.score.total}",
            "accuracy": f"{row.score.accuracy:.1%}",
            "95 % interval": f"{low:.1%} to {high:.1%}",
            "p": "–" if row.p_value is None else f"{row.p_value:.3g}",
        }
        if row.perplexity is not None:
            figures["perplexity/char."] = f"{row.perplexity:.2f}"
        found.append({**figures, "seconds": f"{row.seconds:.1f}"})
    return found


def _cells(row: ComparedRow) -> list[object]:
    """A row of the CSV."""
    low, high = row.score.interval
    return [
        row.model,
        row.shots,
        row.score.correct,
        row.score.total,
        f"{row.score.accuracy:.4f}",
        f"{low:.4f}",
        f"{high:.4f}",
        "" if row.p_value is None else f"{row.p_value:.4g}",
        "" if row.perplexity is None else f"{row.perplexity:.4f}",
        f"{row.seconds:.1f}",
    ]
