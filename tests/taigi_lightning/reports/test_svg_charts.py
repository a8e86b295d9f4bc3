"""Charts draw what was logged: no peak lost, no value invented, no odd log a crash."""

import math
import re

import pytest

from taigi_lightning.reports.svg_charts import MOST_POINTS, Series, histogram, line_chart, smoothed, thin


def drawn(chart: str) -> list[tuple[float, float]]:
    """The points of a chart's first line."""
    path = re.search(r'class="line \w+" d="M([^"]+)"', chart)
    assert path is not None
    return [(float(x), float(y)) for x, y in (point.split() for point in path[1].split("L"))]


def test_higher_values_are_drawn_higher_and_later_ones_further_right() -> None:
    points = drawn(line_chart([Series("loss", [1, 2, 3], [5.0, 1.0, 3.0])], "loss"))
    assert [x for x, _ in points] == sorted(x for x, _ in points)
    (_, top), (_, bottom), (_, middle) = points
    assert top < middle < bottom, "SVG counts downwards"


def test_what_is_not_finite_is_left_out() -> None:
    chart = line_chart([Series("loss", [1, 2, 3, 4], [2.0, math.nan, math.inf, 1.0])], "loss")
    assert len(drawn(chart)) == 2
    assert "nan" not in chart
    assert "inf" not in chart


@pytest.mark.parametrize("values", [[], [math.nan], [0.5], [0.0, 0.0], [-1e-9, 1e-9], [1e7, 2e7]])
def test_few_or_odd_values_are_drawn_too(values: list[float]) -> None:
    chart = line_chart([Series("x", list(range(len(values))), values)], "x")
    assert chart.startswith("<p" if not any(map(math.isfinite, values)) else "<svg")


def test_accuracy_is_drawn_between_0_and_1_with_chance_and_resumes_marked() -> None:
    chart = line_chart(
        [Series("accuracy", [100], [0.3])],
        "accuracy",
        percent=True,
        reference=0.25,
        marks=[40, 60],
        x_high=200,
    )
    assert ">0%<" in chart
    assert ">100%<" in chart
    assert ">200<" in chart, "the axis spans the whole run, not the one point"
    assert chart.count('class="mark"') == 3


def test_thinning_keeps_every_peak() -> None:
    points = [(float(n), 100.0 if n == 7_777 else 1.0) for n in range(20_000)]
    kept = thin(points)
    assert len(kept) <= MOST_POINTS + 2
    assert (7_777.0, 100.0) in kept


def test_smoothing_neither_delays_a_fall_nor_changes_a_straight_line() -> None:
    line = [10.0 - n for n in range(10)]
    assert smoothed(line, 5) == pytest.approx(line)


def test_a_histogram_has_a_bar_for_each_part() -> None:
    assert histogram([0.0, 0.5, 1.0], "margins", x_name="margin").count("<rect") == 20
