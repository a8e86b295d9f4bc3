"""What a run logged, as one curve: every start of it wrote a CSV of its own."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import NamedTuple

from taigi_lightning.errors import InputError

Metrics = dict[str, list[tuple[float, float]]]  # column → (optimizer steps done, value), where it was logged


class RunLog(NamedTuple):
    """A run's curves over all its resumes.

    Args:
        metrics: of every column the values that led to the model; what a resume did again counts once.
        resumed_at: after how many optimizer steps it was resumed, in order.
    """

    metrics: Metrics
    resumed_at: list[int]


def read_run_log(folder: Path) -> RunLog:
    """The CSV logs of a run's folder, joined.

    A start from a checkpoint replaces what an earlier start logged after that checkpoint. A start without
    one is a new run, so that nothing before it counts.

    Args:
        folder: what the run wrote, with `logs/version_N/metrics.csv`.

    Raises:
        InputError: there is no log.
    """
    logs = sorted(folder.glob("logs/**/metrics.csv"), key=_start_number)
    if not logs:
        raise InputError(f"{folder} holds no logs/**/metrics.csv. Give the folder that a `fit` wrote into.")
    joined = RunLog({}, [])
    for log in logs:
        metrics = _read_csv(log)
        if not metrics:
            continue
        resumed_at = _resumed_at(log, metrics)
        _cut(joined, resumed_at)
        if joined.metrics:
            joined.resumed_at.append(resumed_at)
        for name, points in metrics.items():
            joined.metrics.setdefault(name, []).extend(points)
    return joined


def _start_number(log: Path) -> tuple[int, Path]:
    number = re.search(r"(\d+)$", log.parent.name)  # version_10 comes after version_9
    return (int(number[1]) if number else -1, log)


def _read_csv(log: Path) -> Metrics:
    metrics: Metrics = {}
    with log.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            for name, value in row.items():
                if value and name not in ("epoch", "step"):
                    # Lightning counts from 0: the row of step 0 says what one step has done.
                    metrics.setdefault(name, []).append((float(row["step"]) + 1, float(value)))
    return metrics


def _resumed_at(log: Path, metrics: Metrics) -> int:
    """How many optimizer steps had been done when this start began; 0 is a new run."""
    first = int(min(points[0][0] for points in metrics.values())) - 1
    settings = log.with_name("hparams.yaml")
    if not settings.is_file():
        return first
    # Read as a line: the file names Python objects, which safe YAML loading refuses.
    checkpoint = re.search(r"^ckpt_path: *(.*)$", settings.read_text(encoding="utf-8"), flags=re.MULTILINE)
    if not checkpoint or checkpoint[1] in ("", "null"):
        return 0
    step = re.search(r"step=(\d+)", checkpoint[1])
    return int(step[1]) if step else first


def _cut(log: RunLog, steps: int) -> None:
    """Forget what was logged after a number of optimizer steps."""
    for name, points in list(log.metrics.items()):
        log.metrics[name] = [point for point in points if point[0] <= steps]
        if not log.metrics[name]:
            del log.metrics[name]
    log.resumed_at[:] = [place for place in log.resumed_at if place <= steps]
