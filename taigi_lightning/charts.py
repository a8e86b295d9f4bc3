"""Small charts as inline SVG, coloured by the page's style sheet: readable on a phone, light or dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

WIDTH, HEIGHT = 400, 240
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 12, 40
MOST_POINTS = 400  # of a line; more could not be told apart


class Series(NamedTuple):
    """One line: its points and how the style sheet draws it (`raw`, `main`, `other`)."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    style: str = "main"


def line_chart(
    series: Sequence[Series], label: str, *, x_name: str = "optimizer step", zero: bool = False
) -> str:
    """Lines over a shared axis; points that are not finite are left out.

    Args:
        series: drawn in order, the last on top.
        label: what a screen reader says.
        zero: let the vertical axis begin at zero.
    """
    finite = [(s, [(x, y) for x, y in zip(s.x, s.y, strict=True) if math.isfinite(y)]) for s in series]
    points = [point for _, some in finite for point in some]
    if not points:
        return '<p class="none">nothing was logged</p>'
    x_low, x_high = min(x for x, _ in points), max(x for x, _ in points)
    low, high = 0.0 if zero else min(y for _, y in points), max(y for _, y in points)
    x_ticks, y_ticks = ticks(x_low, x_high, 4), ticks(low, high, 4)
    y_low, y_high = min(low, y_ticks[0]), max(high, y_ticks[-1])

    def at(x: float, y: float) -> tuple[float, float]:
        across = (x - x_low) / (x_high - x_low) if x_high > x_low else 0.5
        up = (y - y_low) / (y_high - y_low) if y_high > y_low else 0.5
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    parts = []
    for tick in y_ticks:
        _, y = at(x_low, tick)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{short(tick)}</text>')
    for tick in x_ticks:
        if x_low <= tick <= x_high:
            x, _ = at(tick, y_low)
            parts.append(f'<text x="{x:.1f}" y="{HEIGHT - 22}" text-anchor="middle">{short(tick)}</text>')
    parts.append(
        f'<text class="axis" x="{WIDTH - RIGHT}" y="{HEIGHT - 4}" text-anchor="end">{escape(x_name)}</text>'
    )
    for one, some in finite:
        placed = [at(x, y) for x, y in thin(some)]
        if len(placed) > 1:
            path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in placed)
            parts.append(f'<path class="line {one.style}" d="{path}"/>')
        if len(placed) <= 12:
            parts += [f'<circle class="{one.style}" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>' for x, y in placed]
    return _svg(parts, HEIGHT, label)


def histogram(values: Sequence[float], label: str, *, bins: int = 20, x_name: str) -> str:
    """How many values lie in each of `bins` equal parts of 0..1."""
    counts = [0] * bins
    for value in values:
        counts[min(bins - 1, int(value * bins))] += 1
    highest = max([*counts, 1])
    y_ticks = ticks(0, highest, 3)
    top = max(highest, y_ticks[-1])
    room, wide = HEIGHT - TOP - BOTTOM, (WIDTH - LEFT - RIGHT) / bins
    parts = []
    for tick in y_ticks:
        y = HEIGHT - BOTTOM - tick / top * room
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{short(tick)}</text>')
    for place, count in enumerate(counts):
        tall = count / top * room
        parts.append(
            f'<rect class="bar" x="{LEFT + place * wide + 1:.1f}" y="{HEIGHT - BOTTOM - tall:.1f}" '
            f'width="{wide - 2:.1f}" height="{tall:.1f}" rx="2"/>'
        )
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        x = LEFT + tick * (WIDTH - LEFT - RIGHT)
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - 22}" text-anchor="middle">{short(tick)}</text>')
    parts.append(
        f'<text class="axis" x="{WIDTH - RIGHT}" y="{HEIGHT - 4}" text-anchor="end">{escape(x_name)}</text>'
    )
    return _svg(parts, HEIGHT, label)


def smoothed(values: Sequence[float], window: int) -> list[float]:
    """The mean of each value and those up to `window` - 1 before it; what is not finite is passed over.

    >>> smoothed([4.0, 2.0, float("nan"), 6.0], 2)
    [4.0, 3.0, 2.0, 6.0]
    """
    found = []
    for end in range(1, len(values) + 1):
        some = [value for value in values[max(0, end - window) : end] if math.isfinite(value)]
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


def ticks(low: float, high: float, wanted: int) -> list[float]:
    """Round numbers that cover low..high, about `wanted` of them.

    >>> ticks(0.0, 9.3, 4)
    [0.0, 2.5, 5.0, 7.5, 10.0]
    """
    if high <= low:
        return [low]
    rough = (high - low) / wanted
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def short(value: float) -> str:
    """A number in few characters.

    >>> short(12500.0), short(0.0002), short(2.5), short(1000000), short(0.0)
    ('12.5k', '2e-4', '2.5', '1M', '0')
    """
    size = abs(value)
    if size >= 999_500:
        return f"{value / 1e6:.3g}M"
    if size >= 10_000:
        return f"{value / 1e3:.3g}k"
    if 0 < size < 0.001:
        digits, _, power = f"{value:.1e}".partition("e")
        return f"{digits.removesuffix('.0')}e{int(power)}"
    return f"{value:.4g}"


def _svg(parts: Sequence[str], height: int, label: str) -> str:
    inside = "".join(parts)
    return f'<svg viewBox="0 0 {WIDTH} {height + 4}" role="img" aria-label="{escape(label)}">{inside}</svg>'
