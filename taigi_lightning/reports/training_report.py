"""report.html of a training run: one file without scripts, to read on a phone or a desk, light or dark."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from taigi_lightning.planning.run_files import HOW_TRAINED, lineage_file, read_json
from taigi_lightning.planning.run_log import Metrics, RunLog, read_run_log
from taigi_lightning.reports.html_page import origins, question_card, write_page
from taigi_lightning.reports.page import Chart, as_csv
from taigi_lightning.reports.svg_charts import Series, line_chart, smoothed
from taigi_lightning.tasks.question_prompt import FOUR_CHOICE
from taigi_lightning.tasks.questions import Question

REPORT = "report.html"
ANSWERS = "held_out_answers.json"  # from `HeldOutAnswers`
BY_SOURCE = "val/loss/"  # of each source that is validated on, if there are several
TEXT = "held_out_text.json"  # from `HeldOutText`
WRITING = "written_samples.json"  # from `WrittenSamples`
DARKEST = 8.0  # nats from which a piece of text has the darkest ground
# Title, column, whether the vertical axis begins at zero, and what to say of it.
CURVES = (
    ("Learning rate", "train/learning_rate", True, ""),
    ("Gradient norm", "train/grad_norm", True, "before clipping"),
    ("Tokens per second", "train/tokens_per_second", True, "padding included"),
    ("Memory, GiB", "train/memory_gib", True, "reserved by PyTorch, the most until then"),
)


def write_fit_report(folder: Path) -> Path:
    """Write `report.html` of a training run into its folder, aside first and then renamed.

    Args:
        folder: what the run wrote: `logs/**/metrics.csv`, and config.yaml, lineage.json,
            held_out_text.json, written_samples.json and held_out_answers.json where there are.

    Returns:
        the report's path.

    Raises:
        InputError: the folder holds no log.
    """
    log = read_run_log(folder)
    config = folder / "config.yaml"
    lineage = lineage_file(folder) or lineage_file(folder / "adapter")
    answers = read_json(folder / ANSWERS)
    return write_page(
        folder / REPORT,
        "training.html",
        title=f"Training run: {folder.name}",
        heading="Training run",
        lead="",
        facts=_origins(folder, lineage or {}),
        figures=fit_figures(log.metrics, exported_checkpoint(lineage)),
        resumed_at=", ".join(f"{step:,}" for step in log.resumed_at),
        charts=_fit_charts(log, _chance(answers)),
        written=read_json(folder / WRITING) or [],
        held_out_text=_held_out_text(read_json(folder / TEXT)),
        held_out_answers=_held_out_answers(answers),
        how_trained=read_json(folder / HOW_TRAINED) or [],
        lineage=lineage_rows(lineage) if lineage else [],
        config=config.read_text(encoding="utf-8") if config.is_file() else "",
    )


def _origins(folder: Path, lineage: Mapping[str, Any]) -> dict[str, str]:
    """The run's base, adapter and data, and when it logged last."""
    adapter = folder / "adapter"
    named = {
        "model": folder,
        "base": (lineage.get("base") or {}).get("name"),
        "adapter": adapter if adapter.is_dir() else None,
        "data": (lineage.get("data") or {}).get("path"),
    }
    ended = max(log.stat().st_mtime for log in folder.glob("logs/**/metrics.csv"))
    return origins(named, ended, "last logged")


def exported_checkpoint(lineage: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Which weights of its run a model is, by its lineage; empty for one of a version that did not record it."""
    return ((lineage or {}).get("run") or {}).get("checkpoint") or {}


def fit_figures(metrics: Metrics, exported: Mapping[str, Any] | None = None) -> dict[str, str]:
    """The run in a few numbers, for the tiles at the top and for the model card.

    Args:
        metrics: the run's curves.
        exported: from `exported_checkpoint`; of the best checkpoint, what was measured of it is shown.
    """
    best = (exported or {}).get("which") == "best"
    step = exported["step"] if exported and best else None
    figures = {"exported": f"best, step {step:,}"} if step is not None else {}
    if loss := metrics.get("train/loss"):
        tail = [value for _, value in loss[-max(1, len(loss) // 20) :]]
        figures["optimizer steps"] = f"{loss[-1][0]:,.0f}"
        figures["training loss at the end"] = f"{statistics.fmean(tail):.3f}"
    for name, column in (("validation loss", "val/loss"), ("perplexity", "val/perplexity")):
        if column in metrics:
            figures[name] = f"{_measured(metrics[column], step):.3f}"
    if accuracy := metrics.get("val/accuracy"):
        figures["validation accuracy"] = f"{_measured(accuracy, step):.1%}"
        highest, at = max((value, -done) for done, value in accuracy)
        if highest > _measured(accuracy, step):
            figures["highest validation accuracy"] = f"{highest:.1%}, step {-at:,.0f}"
    if speed := metrics.get("train/tokens_per_second"):
        figures["tokens per second"] = f"{statistics.median(value for _, value in speed):,.0f}"
    if memory := metrics.get("train/memory_gib"):
        figures["GiB at the peak"] = f"{max(value for _, value in memory):.1f}"
    return figures


def _measured(points: list[tuple[float, float]], step: int | None) -> float:
    """What was measured after a number of optimizer steps; at the end where none is given, or none was then."""
    return next((value for done, value in points if done == step), points[-1][1])


def _fit_charts(log: RunLog, chance: float) -> list[Chart]:
    last = max(points[-1][0] for points in log.metrics.values())

    def points(name: str) -> tuple[list[float], list[float]]:
        found = log.metrics.get(name, [])
        return [x for x, _ in found], [y for _, y in found]

    def draw(title: str, lines: list[Series], **options: Any) -> Chart:
        return line_chart(title, lines, x_high=last, marks=log.resumed_at, **options)

    steps, loss = points("train/loss")
    lines = [Series("each step", steps, loss, "raw")]
    if len(loss) >= 20:
        lines.append(Series("smoothed", steps, smoothed(loss, max(5, len(loss) // 40)), "main"))
    if "val/loss" in log.metrics:
        lines.append(Series("validation", *points("val/loss"), "other"))
    charts = [draw("Loss", lines, note="nats a supervised token")]
    for name in sorted(name for name in log.metrics if name.startswith(BY_SOURCE)):
        title = f"Validation loss of {name.removeprefix(BY_SOURCE)}"
        charts.append(draw(title, [Series(title, *points(name), "other")], note="nats a supervised token"))
    if "val/accuracy" in log.metrics:
        lines = [Series("Validation accuracy", *points("val/accuracy"), "other")]
        note = "dashed: chance"
        charts.append(draw("Validation accuracy", lines, percent=True, reference=chance, note=note))
    for title, name, zero, note in CURVES:
        if name in log.metrics:
            charts.append(draw(title, [Series(title, *points(name))], zero=zero, note=note))
    return charts


def _chance(found: Mapping[str, Any] | None) -> float:
    """The accuracy of guessing, by how many options the held-out questions have."""
    options = found["answers"][0]["options"] if found and found["answers"] else FOUR_CHOICE.answers
    return 1 / len(options)


def _held_out_answers(found: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Some held-out questions with the trained model's answers."""
    if not found or not found["answers"]:
        return None
    cards = []
    for row in found["answers"]:
        options = tuple(row["options"])
        question = Question(row["id"], row["passage"], row["question"], options, row["right"], row["row"])
        cards.append(question_card(question, row["probabilities"], row["answer"]))
    correct = sum(row["answer"] == row["right"] for row in found["answers"])
    lead = (
        f"{len(cards)} of the {found['held_out']:,} held-out questions, evenly spread over them, answered when "
        f"training ended; {correct} of these are correct."
    )
    return {"lead": lead, "cards": cards}


def _held_out_text(found: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """A held-out text on a ground that is the darker, the less the trained model expected it."""
    if not found or not found["pieces"]:
        return None
    pieces = [
        {"text": text, "nats": f"{nats:.2f}", "shade": f"{100 * min(1.0, nats / DARKEST):.0f}"}
        for text, nats in found["pieces"]
    ]
    data = as_csv("held-out-text.csv", ["text", "nats"], found["pieces"])
    return {"pieces": pieces, "mean": f"{found['mean']:.2f}", "data": data}


def lineage_rows(lineage: Mapping[str, Any]) -> list[tuple[str, str]]:
    """A model's ancestors, youngest first: each stage's base and its data, as text."""
    rows: list[tuple[str, str]] = []
    one: Mapping[str, Any] | None = lineage
    while one:
        base, data = one.get("base") or {}, one.get("data") or {}
        if data.get("path"):
            rows.append(("trained on", f"{data['path']} (SHA-256 {str(data.get('sha256'))[:12]})"))
        if (kept := exported_checkpoint(one)).get("which") == "best":
            rows.append(
                ("weights of", f"step {kept['step']:,}, the best by {kept['monitor']}: {kept['score']:.4g}")
            )
        rows.append(("base", f"{base.get('name')}, {base.get('quantization', 'unquantised')}"))
        one = base.get("lineage")
    return rows
