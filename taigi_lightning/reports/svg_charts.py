"""Small charts as drawings: readable on a phone, light or dark, every value under a pointer."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from taigi_lightning.reports.page import Box, Chart, Drawing, Line, Point, Text, as_csv

WIDTH, HEIGHT = 400, 244
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 14, 44
MOST_POINTS = 400  # of a line; more could not be told apart
MOST_STRIPS = 80  # places where a pointer finds values
DOTS = 12  # points up to which a line has a dot at each
NUMBERED = 5  # points up to which each dot has its number


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

    def axes(self, x_name: str, *, percent: bool = False) -> tuple[list[str], list[Text]]:
        """Grid lines and the numbers beside them."""
        y_ticks, x_ticks = ticks(self.y_low, self.y_high, 5), ticks(self.x_low, self.x_high, 4)
        grid = [f"M{LEFT} {self.down(tick):.1f}H{WIDTH - RIGHT}" for tick in y_ticks]
        texts = [
            Text(f"{LEFT - 7}", f"{self.down(tick) + 4:.1f}", text, "end")
            for tick, text in zip(y_ticks, tick_labels(y_ticks, percent=percent), strict=True)
        ]
        texts += [
            Text(
                f"{self.across(tick):.1f}",
                f"{HEIGHT - 24}",
                text,
                "end" if self.across(tick) > WIDTH - RIGHT - 4 else "middle",  # it would leave the picture
            )
            for tick, text in zip(x_ticks, tick_labels(x_ticks), strict=True)
        ]
        return grid, [*texts, Text(f"{WIDTH - RIGHT}", f"{HEIGHT - 6}", x_name, "end")]


def line_chart(
    title: str,
    series: Sequence[Series],
    *,
    x_name: str = "optimizer steps",
    x_high: float | None = None,
    zero: bool = False,
    percent: bool = False,
    reference: float | None = None,
    marks: Sequence[float] = (),
    note: str = "",
) -> Chart:
    """Lines over a shared axis that begins at 0; points that are not finite are left out.

    Args:
        title: above the chart, and in the name of the file with its numbers.
        series: drawn in order, the last on top.
        x_high: where the horizontal axis ends; None ends it at the last point.
        zero: let the vertical axis begin at zero.
        percent: the vertical axis goes from 0 to 1 and is labelled in percent.
        reference: a value to draw a dashed line at, such as chance.
        marks: places on the horizontal axis to draw a dashed line at, such as resumes.
        note: in small print beside the title.
    """
    key = [(one.name, one.style) for one in series] if len(series) > 1 else []
    lines = [(s, [(x, y) for x, y in zip(s.x, s.y, strict=True) if math.isfinite(y)]) for s in series]
    values = [y for _, points in lines for _, y in points]
    if not values:
        return Chart(title, None, None, key, note)
    low, high = (0.0, 1.0) if percent else padded(values, zero=zero)
    last = max(x for _, points in lines for x, _ in points)
    frame = Frame(0.0, max(x_high or 0.0, 1.0, last), low, high)
    grid, texts = frame.axes(x_name, percent=percent)
    dashed = [f"M{LEFT} {frame.down(reference):.1f}H{WIDTH - RIGHT}"] if reference is not None else []
    drawing = Drawing(
        label=f"{title}, by {x_name}",
        width=WIDTH,
        height=HEIGHT,
        grid=grid,
        texts=texts,
        marks=[*dashed, *(f"M{frame.across(x):.1f} {TOP}V{HEIGHT - BOTTOM}" for x in marks)],
        lines=[line for one, points in lines for line in _line(frame, one, thin(points))],
        points=[dot for one, points in lines for dot in _dots(frame, one, points, percent, len(series))],
        strips=_strips(frame, lines, percent, x_name),
    )
    return Chart(title, drawing, _numbers(title, x_name, series), key, note)


def _line(frame: Frame, one: Series, points: Sequence[tuple[float, float]]) -> list[Line]:
    placed = "L".join(f"{frame.across(x):.1f} {frame.down(y):.1f}" for x, y in points)
    return [Line(f"M{placed}", one.style)] if len(points) > 1 else []


def _dots(
    frame: Frame, one: Series, points: Sequence[tuple[float, float]], percent: bool, lines: int
) -> list[Point]:
    """A dot at each of a few points, and numbers: at each of very few, else at the last of a line to read."""
    dotted = points if len(points) <= DOTS else []
    plain = one.style == "raw" and lines > 1
    numbered = [] if plain else points if len(points) <= NUMBERED else points[-1:]
    found = []
    for x, y in dotted or numbered:
        text = _number_at(frame, one, x, y, percent) if (x, y) in numbered else None
        found.append(Point(f"{frame.across(x):.1f}", f"{frame.down(y):.1f}", one.style, text))
    return found


def _number_at(frame: Frame, one: Series, x: float, y: float, percent: bool) -> Text:
    """A point's value: above it for validations, below it for the rest, where there is space for it."""
    across, down = frame.across(x), frame.down(y)
    above = down - 8 > TOP and (one.style == "other" or down + 18 > HEIGHT - BOTTOM)
    anchor = "end" if across > WIDTH - RIGHT - 20 else "start" if across < LEFT + 20 else "middle"
    return Text(f"{across:.1f}", f"{down - 8 if above else down + 17:.1f}", written(y, percent), anchor)


def _strips(
    frame: Frame, lines: Sequence[tuple[Series, Sequence[tuple[float, float]]]], percent: bool, x_name: str
) -> list[Box]:
    """Where a pointer rests, the values there: of every line its last in the strip."""
    places = sorted({x for _, points in lines for x, _ in points})
    size = math.ceil(len(places) / MOST_STRIPS)
    last = {place: number // size for number, place in enumerate(places)}
    ends = [places[min(start + size, len(places)) - 1] for start in range(0, len(places), size)]
    words = [[f"{x_name}: {end:,g}"] for end in ends]
    for one, points in lines:
        for number, (_, y) in {last[x]: (x, y) for x, y in points}.items():
            words[number].append(f"{one.name}: {written(y, percent)}")
    middles = [(one + other) / 2 for one, other in pairwise(ends)]
    borders = [frame.across(x) for x in (frame.x_low, *middles, frame.x_high)]
    tall = f"{HEIGHT - BOTTOM - TOP}"
    return [
        Box(f"{left:.1f}", f"{TOP}", f"{max(0.1, right - left):.1f}", tall, "\n".join(some))
        for left, right, some in zip(borders, borders[1:], words, strict=False)
    ]


def _numbers(title: str, x_name: str, series: Sequence[Series]) -> Any:
    """All points of all lines, a row for each place on the horizontal axis."""
    columns = [dict(zip(one.x, one.y, strict=True)) for one in series]
    places = sorted(set().union(*columns))
    rows = [[f"{x:g}", *(column.get(x) for column in columns)] for x in places]
    return as_csv(file_name(title), [x_name, *(one.name for one in series)], rows)


def file_name(title: str) -> str:
    """A title as the name of a CSV file, legal on every system.

    >>> file_name("Memory, GiB"), file_name("a/b: <c>")
    ('memory-gib.csv', 'a-b-c.csv')
    """
    words = "".join(character if character.isalnum() else " " for character in title.lower()).split()
    return f"{'-'.join(words)[:60] or 'numbers'}.csv"


def written(value: float, percent: bool = False) -> str:
    """A value for a reader.

    >>> written(0.8768, True), written(2.34567), written(1e-5), written(8123.4)
    ('87.7%', '2.346', '1e-05', '8,123')
    """
    if percent:
        return f"{value:.1%}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def histogram(title: str, values: Iterable[float], *, bins: int = 20, x_name: str, note: str = "") -> Chart:
    """How many values lie in each of `bins` equal parts of 0..1."""
    counts = [0] * bins
    for value in values:
        counts[min(bins - 1, int(value * bins))] += 1
    frame = Frame(0.0, 1.0, 0.0, max(*counts, 1) * 1.04)
    grid, texts = frame.axes(x_name)
    bars, strips, rows = [], [], []
    for place, count in enumerate(counts):
        start, end = place / bins, (place + 1) / bins
        left, right, top = frame.across(start), frame.across(end), frame.down(count)
        bars.append(
            Box(f"{left + 1:.1f}", f"{top:.1f}", f"{right - left - 2:.1f}", f"{HEIGHT - BOTTOM - top:.1f}")
        )
        title_of = f"{x_name} {start:.2f} to {end:.2f}: {count:,}"
        strips.append(
            Box(f"{left:.1f}", f"{TOP}", f"{right - left:.1f}", f"{HEIGHT - BOTTOM - TOP}", title_of)
        )
        rows.append([f"{start:.2f}", f"{end:.2f}", count])
    drawing = Drawing(title, WIDTH, HEIGHT, grid=grid, texts=texts, bars=bars, strips=strips)
    return Chart(title, drawing, as_csv(file_name(title), ["from", "to", "count"], rows), note=note)


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
    """At most about MOST_POINTS of many points, the lowest and highest of each span, so that no peak is lost."""
    if len(points) <= MOST_POINTS:
        return points
    size = math.ceil(2 * len(points) / MOST_POINTS)
    kept: list[tuple[float, float]] = []
    for start in range(0, len(points), size):
        span = points[start : start + size]
        ends = {min(span, key=lambda point: point[1]), max(span, key=lambda point: point[1])}
        kept += sorted(ends)
    return kept


def padded(values: Sequence[float], *, zero: bool) -> tuple[float, float]:
    """The ends of an axis that shows all values with a little headroom.

    >>> padded([1.0, 3.0], zero=False), padded([0.0, 2.0], zero=True), padded([5.0], zero=False)
    ((0.9, 3.1), (0.0, 2.1), (4.5, 5.5))
    """
    low, high = min(values), max(values)
    headroom = (high - low) / 20 or abs(high) / 10 or 1.0
    return (min(0.0, low) if zero else low - headroom), high + headroom


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
