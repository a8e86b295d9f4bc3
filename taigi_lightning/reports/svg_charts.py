"""Small charts as inline SVG, coloured by the page's style sheet: readable on a phone, light or dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

WIDTH, HEIGHT = 400, 244
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 12, 44
MOST_POINTS = 400  # of a line; more could not be told apart


class Series(NamedTuple):
    """One line: its points and how the style sheet draws it (`raw`, `main`, `other`)."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    style: str = "main"


class Frame(NamedTuple):
    """The rectangle of values that a drawing shows."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float

    def across(self, x: float) -> float:
        """Where a value of the horizontal axis lies, in drawing units."""
        share = (x - self.x_low) / (self.x_high - self.x_low)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def down(self, y: float) -> float:
        """Where a value of the vertical axis lies, in drawing units."""
        share = (y - self.y_low) / (self.y_high - self.y_low)
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    def axes(self, x_name: str, *, percent: bool = False) -> list[str]:
        """Grid lines and the numbers beside them."""
        parts = []
        y_ticks, x_ticks = ticks(self.y_low, self.y_high, 5), ticks(self.x_low, self.x_high, 4)
        for tick, text in zip(y_ticks, tick_labels(y_ticks, percent=percent), strict=True):
            y = self.down(tick)
            parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
            parts.append(f'<text x="{LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{text}</text>')
        for tick, text in zip(x_ticks, tick_labels(x_ticks), strict=True):
            x = self.across(tick)
            parts.append(f'<text x="{x:.1f}" y="{HEIGHT - 24}" text-anchor="middle">{text}</text>')
        parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 6}" text-anchor="end">{escape(x_name)}</text>')
        return parts


def line_chart(
    series: Sequence[Series],
    label: str,
    *,
    x_name: str = "optimizer steps",
    x_high: float | None = None,
    zero: bool = False,
    percent: bool = False,
    reference: float | None = None,
    marks: Sequence[float] = (),
) -> str:
    """Lines over a shared axis that begins at 0; points that are not finite are left out.

    Args:
        series: drawn in order, the last on top.
        label: what a screen reader says.
        x_high: where the horizontal axis ends; None ends it at the last point.
        zero: let the vertical axis begin at zero.
        percent: the vertical axis goes from 0 to 1 and is labelled in percent.
        reference: a value to draw a dashed line at, such as chance.
        marks: places on the horizontal axis to draw a dashed line at, such as resumes.
    """
    finite = [(s, [(x, y) for x, y in zip(s.x, s.y, strict=True) if math.isfinite(y)]) for s in series]
    points = [point for _, some in finite for point in some]
    if not points:
        return '<p class="none">nothing was logged</p>'
    low, high = (0.0, 1.0) if percent else padded([y for _, y in points], zero=zero)
    frame = Frame(0.0, max([x_high or 0.0, 1.0, *(x for x, _ in points)]), low, high)
    parts = frame.axes(x_name, percent=percent)
    if reference is not None:
        parts.append(f'<path class="mark" d="M{LEFT} {frame.down(reference):.1f}H{WIDTH - RIGHT}"/>')
    parts += [f'<path class="mark" d="M{frame.across(x):.1f} {TOP}V{HEIGHT - BOTTOM}"/>' for x in marks]
    for one, some in finite:
        placed = [(frame.across(x), frame.down(y)) for x, y in thin(some)]
        if len(placed) > 1:
            path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in placed)
            parts.append(f'<path class="line {one.style}" d="{path}"/>')
        if len(placed) <= 12:
            parts += [f'<circle class="{one.style}" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>' for x, y in placed]
    return _svg(parts, label)


def histogram(values: Sequence[float], label: str, *, bins: int = 20, x_name: str) -> str:
    """How many values lie in each of `bins` equal parts of 0..1."""
    counts = [0] * bins
    for value in values:
        counts[min(bins - 1, int(value * bins))] += 1
    frame = Frame(0.0, 1.0, 0.0, max(*counts, 1) * 1.04)
    parts = frame.axes(x_name)
    for place, count in enumerate(counts):
        left, right, top = frame.across(place / bins), frame.across((place + 1) / bins), frame.down(count)
        parts.append(
            f'<rect class="bar" x="{left + 1:.1f}" y="{top:.1f}" width="{right - left - 2:.1f}" '
            f'height="{HEIGHT - BOTTOM - top:.1f}" rx="2"/>'
        )
    return _svg(parts, label)


def smoothed(values: Sequence[float], window: int) -> list[float]:
    """The mean of each value and its neighbours up to `window` // 2 away; what is not finite is passed over.

    Near an end as many are taken on either side as there are on the shorter, so that the line begins and
    ends where the values do.

    >>> smoothed([4.0, 2.0, float("nan"), 6.0, 8.0], 3)
    [4.0, 3.0, 4.0, 7.0, 8.0]
    """
    found = []
    for place in range(len(values)):
        reach = min(window // 2, place, len(values) - 1 - place)
        some = [v for v in values[place - reach : place + reach + 1] if math.isfinite(v)]
        found.append(sum(some) / len(some) if some else math.nan)
    return found


def thin(points: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    """At most about MOST_POINTS of many points, the lowest and highest of each stretch, so that no peak is lost."""
    if len(points) <= MOST_POINTS:
        return points
    size = math.ceil(2 * len(points) / MOST_POINTS)
    kept: list[tuple[float, float]] = []
    for start in range(0, len(points), size):
        stretch = points[start : start + size]
        ends = {min(stretch, key=lambda point: point[1]), max(stretch, key=lambda point: point[1])}
        kept += sorted(ends)
    return kept


def padded(values: Sequence[float], *, zero: bool) -> tuple[float, float]:
    """The ends of an axis that shows all values with a little room.

    >>> padded([1.0, 3.0], zero=False), padded([0.0, 2.0], zero=True), padded([5.0], zero=False)
    ((0.9, 3.1), (0.0, 2.1), (4.5, 5.5))
    """
    low, high = min(values), max(values)
    room = (high - low) / 20 or abs(high) / 10 or 1.0
    return (min(0.0, low) if zero else low - room), high + room


def ticks(low: float, high: float, wanted: int) -> list[float]:
    """Round numbers within low..high, about `wanted` of them.

    >>> ticks(0.0, 9.3, 4), ticks(0.9, 3.1, 4)
    ([0.0, 2.5, 5.0, 7.5], [1.0, 2.0, 3.0])
    """
    rough = (high - low) / wanted
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def tick_labels(values: Sequence[float], *, percent: bool = False) -> list[str]:
    """The numbers of an axis in few characters, all written in one way.

    >>> tick_labels([0.0, 0.0005, 0.001]), tick_labels([0.0, 5e-05, 0.0001])
    (['0', '0.0005', '0.0010'], ['0', '5e-5', '1e-4'])
    >>> tick_labels([0.0, 7500.0, 15000.0]), tick_labels([2.0, 3.0]), tick_labels([0.0, 0.5], percent=True)
    (['0', '7.5k', '15k'], ['2', '3'], ['0%', '50%'])
    """
    most = max(abs(value) for value in values)
    if percent:
        return [f"{value:.0%}" for value in values]
    if most >= 10_000:
        unit, sign = (1e6, "M") if most >= 1e6 else (1e3, "k")
        return [f"{value / unit:g}{sign}" if value else "0" for value in values]
    if 0 < most < 0.001:
        return [f"{value:.1e}".replace(".0e", "e").replace("e-0", "e-") if value else "0" for value in values]
    digits = max(len(f"{value:.6g}".partition(".")[2]) for value in values)
    return [f"{value:,.{digits}f}" if value else "0" for value in values]


def _svg(parts: Sequence[str], label: str) -> str:
    inside = "".join(parts)
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">{inside}</svg>'
