"""Charts draw what was logged: no peak lost, no value invented, no odd log a crash."""

import math

import pytest

from taigi_lightning.reports.page import Chart
from taigi_lightning.reports.svg_charts import (
    LEFT,
    MOST_POINTS,
    MOST_STRIPS,
    RIGHT,
    WIDTH,
    Series,
    histogram,
    line_chart,
    smoothed,
    thin,
)


def drawn(chart: Chart) -> list[tuple[float, float]]:
    """The points of a chart's first line."""
    assert chart.drawing is not None
    path = chart.drawing.lines[0].path.removeprefix("M")
    return [(float(x), float(y)) for x, y in (point.split() for point in path.split("L"))]


def test_higher_values_are_drawn_higher_and_later_ones_further_right() -> None:
    points = drawn(line_chart("loss", [Series("loss", [1, 2, 3], [5.0, 1.0, 3.0])]))
    assert [x for x, _ in points] == sorted(x for x, _ in points)
    (_, top), (_, bottom), (_, middle) = points
    assert top < middle < bottom, "SVG counts downwards"


def test_what_is_not_finite_is_left_out_of_the_picture() -> None:
    chart = line_chart("loss", [Series("loss", [1, 2, 3, 4], [2.0, math.nan, math.inf, 1.0])])
    assert len(drawn(chart)) == 2
    assert "nan" not in str(chart.drawing)
    assert "inf" not in str(chart.drawing)


@pytest.mark.parametrize("values", [[], [math.nan], [0.5], [0.0, 0.0], [-1e-9, 1e-9], [1e7, 2e7]])
def test_few_or_odd_values_are_drawn_too(values: list[float]) -> None:
    chart = line_chart("x", [Series("x", list(range(len(values))), values)])
    assert (chart.drawing is None) == (not any(map(math.isfinite, values)))


def test_accuracy_is_drawn_between_0_and_1_with_chance_and_resumes_marked() -> None:
    accuracy = [Series("accuracy", [100], [0.3])]
    drawing = line_chart("a", accuracy, percent=True, reference=0.25, marks=[40, 60], x_high=200).drawing
    assert drawing is not None
    texts = [text.text for text in drawing.texts]
    assert {"0%", "100%", "200"} <= set(texts), "the axis spans the whole run, not the one point"
    assert len(drawing.marks) == 3


def test_every_value_is_found_under_a_pointer_and_in_the_file() -> None:
    steps = list(range(1, 1001))
    lines = [
        Series("each step", steps, [1000.0 - step for step in steps], "raw"),
        Series("validation", [500, 1000], [2.5, 1.25], "other"),
    ]
    chart = line_chart("Loss", lines)
    assert chart.drawing is not None
    assert chart.data is not None
    strips = chart.drawing.strips
    assert len(strips) <= MOST_STRIPS
    assert float(strips[0].x) == LEFT
    assert float(strips[-1].x) + float(strips[-1].width) == pytest.approx(WIDTH - RIGHT, abs=0.2)
    assert strips[-1].title.splitlines() == ["optimizer steps: 1,000", "each step: 0", "validation: 1.25"]
    rows = chart.data.text.splitlines()
    assert rows[0] == "optimizer steps,each step,validation"
    assert (rows[1], rows[500], len(rows)) == ("1,999.0,", "500,500.0,2.5", 1001)
    assert (chart.data.name, chart.data.size) == ("loss.csv", "1,000 lines")


def test_few_points_have_their_numbers_and_many_the_last() -> None:
    few = line_chart("a", [Series("a", [1, 2, 3], [0.5, 0.25, 0.125])]).drawing
    many = line_chart("a", [Series("a", list(range(100)), [float(n) for n in range(100)])]).drawing
    assert few is not None
    assert many is not None
    assert [point.text.text for point in few.points if point.text] == ["0.5", "0.25", "0.125"]
    assert [point.text.text for point in many.points if point.text] == ["99"]


def test_thinning_keeps_every_peak() -> None:
    points = [(float(n), 100.0 if n == 7_777 else 1.0) for n in range(20_000)]
    kept = thin(points)
    assert len(kept) <= MOST_POINTS + 2
    assert (7_777.0, 100.0) in kept


def test_smoothing_neither_delays_a_fall_nor_changes_a_straight_line() -> None:
    line = [10.0 - n for n in range(10)]
    assert smoothed(line, 5) == pytest.approx(line)


def test_a_histogram_has_a_bar_and_a_count_for_each_part() -> None:
    chart = histogram("margins", [0.0, 0.5, 1.0], x_name="margin")
    assert chart.drawing is not None
    assert len(chart.drawing.bars) == len(chart.drawing.strips) == 20
    assert chart.drawing.strips[-1].title == "margin 0.95 to 1.00: 1"
