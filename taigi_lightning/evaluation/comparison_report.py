"""A comparison of models as CSV, for a terminal, and as one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.table import Table

from taigi_lightning.atomic_write import write_text
from taigi_lightning.evaluation.compare_written import WrittenRow
from taigi_lightning.evaluation.scoring import Score
from taigi_lightning.reports.html_page import origins, write_page
from taigi_lightning.reports.page import as_csv

HEADER = (
    "Model", "Shots", "Correct", "Total", "Accuracy", "Low", "High", "PValue", "PerplexityPerCharacter",
    "Seconds",
)  # fmt: skip
NOTE = (
    "The 95 % interval is Wilson's. p is McNemar's exact test against the first model with as many solved "
    "examples: how often chance alone would split so unevenly the questions that only one of the two answers correctly."
)


WRITTEN_HEADER = ("Model", "Measure", "Value", "Low", "High", "PValue", "Total", "Seconds", "Signature")
WRITTEN_NOTE = (
    "Of 100. The 95 % intervals are by bootstrap over the answers; p is sacrebleu's paired bootstrap against the first "
    "model: how often chance alone would make two sets of texts differ so much."
)


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


def write_comparison(
    folder: Path,
    rows: Sequence[ComparedRow],
    named: Mapping[str, object] | None = None,
    excel: bool = False,
    written: Sequence[WrittenRow] = (),
) -> None:
    """Write `comparison.csv`, `written.csv` and `comparison.html`, each aside first and then renamed.

    Args:
        rows: of questions; no comparison.csv without any.
        named: what the page names at its top: models with their adapters, questions, corpus.
        excel: begin the CSVs with the mark by which Excel knows UTF-8.
        written: of written answers; no written.csv without any.
    """
    data = as_csv("comparison.csv", HEADER, [_cells(row) for row in rows])
    texts = as_csv("written.csv", WRITTEN_HEADER, [cells for row in written for cells in _written_cells(row)])
    for file, found in ((data, rows), (texts, written)):
        if found:
            write_text(folder / file.name, "\ufeff" * excel + file.text)
    figures, measures = _figures(rows), [written_figures(row) for row in written]
    asked = f"Accuracy on {rows[0].score.total:,} questions" if rows else ""
    write_page(
        folder / "comparison.html",
        "comparison.html",
        title="Models compared",
        heading=asked or f"{written[0].total:,} written answers",
        lead="with 95 % intervals" + ("; the dashed line is chance" if rows else ""),
        facts=origins(named or {}),
        intervals=[interval(row) for row in rows],
        chance=f"{100 / len(rows[0].score.confusion):g}" if rows else "",
        columns=list(figures[0]) if figures else [],
        rows=[list(row.values()) for row in figures],
        data=data,
        note=NOTE,
        measures=measures,
        texts=texts,
        total=f"{written[0].total:,}" if written else "",
        signatures=[(one.name, one.signature) for one in written[0].scores if one.signature]
        if written
        else [],
        written_note=WRITTEN_NOTE,
    )


def comparison_tables(rows: Sequence[ComparedRow], written: Sequence[WrittenRow]) -> list[Table]:
    """Both kinds of answers for a terminal, as far as there are any."""
    tables = [comparison_table(rows)] if rows else []
    if written:
        table = Table(title=f"{written[0].total:,} written answers")
        figures = [written_figures(row) for row in written]
        for name in figures[0]:
            table.add_column(name, justify="left" if name == "model" else "right")
        for row in figures:
            table.add_row(*row.values())
        tables.append(table)
    return tables


def comparison_table(rows: Sequence[ComparedRow]) -> Table:
    """The comparison for a terminal of 80 columns."""
    figures = [{k: v for k, v in row.items() if k not in ("correct", "seconds")} for row in _figures(rows)]
    table = Table()
    for name in figures[0]:
        table.add_column(name, justify="left" if name == "model" else "right")
    for row in figures:
        table.add_row(*row.values())
    return table


# ---- written answers -------------------------------------------------------------------------------


def written_figures(row: WrittenRow) -> dict[str, str]:
    """A model's written answers as they are read, by column."""
    found = {"model": row.model}
    for one in row.scores:
        low, high = one.interval
        found[one.name] = f"{one.value:.1f} ({low:.1f} to {high:.1f})"
        if one.signature:
            found[f"p {one.name}"] = "–" if row.p_values is None else f"{row.p_values[one.name]:.3g}"
    return found


def _written_cells(row: WrittenRow) -> list[list[object]]:
    """A model's rows of written.csv, one a measure."""
    cells: list[list[object]] = []
    for one in row.scores:
        low, high = one.interval
        p_value = (row.p_values or {}).get(one.name)
        values = [f"{value:.4f}" for value in (one.value, low, high)]
        tested = "" if p_value is None else f"{p_value:.4g}"
        cells.append([row.model, one.name, *values, tested, row.total, f"{row.seconds:.1f}", one.signature])
    return cells


# ---- cells ----------------------------------------------------------------------------------------


def interval(row: ComparedRow) -> dict[str, str]:
    """A row's accuracy as a point and its 95 % interval as a line, on a scale from 0 to 100."""
    low, high = row.score.interval
    accuracy = row.score.accuracy
    examples = f"{row.shots} solved example{'s' if row.shots > 1 else ''}" if row.shots else "no examples"
    return {
        "model": row.model,
        "examples": examples,
        "accuracy": f"{accuracy:.1%}",
        "title": f"{row.score.correct:,} of {row.score.total:,} correct; 95 % interval {low:.1%} to {high:.1%}",
        "low": f"{100 * low:.2f}",
        "width": f"{100 * (high - low):.2f}",
        "place": f"{100 * accuracy:.2f}",
    }


def _figures(rows: Sequence[ComparedRow]) -> list[dict[str, str]]:
    """Each row as it is read, by column; perplexity only where it was measured."""
    found = []
    for row in rows:
        low, high = row.score.interval
        figures = {
            "model": row.model,
            "shots": str(row.shots),
            "correct": f"{row.score.correct} of {row.score.total}",
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
