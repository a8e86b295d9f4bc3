"""Pages from templates, drawings as data, and numbers to save: what both packages' reports are made with.

This file and base.html, parts.html and style.css beside it are the same in both packages, which never import each
other; tests/test_pages.py holds them alike.
"""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup

SHOWN_LINES = 200  # of a CSV file, in the page itself
_INVISIBLE = [
    *range(9),
    11,
    12,
    *range(14, 32),
    *range(127, 160),
    *range(0x202A, 0x202F),
    *range(0x2066, 0x206A),
]
# Control characters, what turns the direction of writing, and halves of characters, which no file can hold.
_SPELT_OUT = {code: f"[U+{code:04X}]" for code in [*_INVISIBLE, *range(0xD800, 0xE000)]}


def printable(value: Any) -> Any:
    """A value as a page may show it: what has no shape, or would turn or cut the text around it, is spelt out.

    >>> printable("a\\x00b"), printable("\\u202eabc"), printable(Markup("<b>"))
    ('a[U+0000]b', '[U+202E]abc', Markup('<b>'))
    """
    return value if isinstance(value, Markup) else str(value).translate(_SPELT_OUT)


@cache
def _templates() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader(__package__ or ""),
        autoescape=True,
        finalize=printable,  # of every value, wherever a template writes one
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(template: str, **values: Any) -> str:
    """A page from the package's template of that name: one file that loads nothing else, with no script in it."""
    return _templates().get_template(template).render(**values)


def moment(seconds: float | None = None) -> str:
    """A time in seconds since 1970, or now, for a reader anywhere.

    >>> moment(0)
    '1970-01-01 00:00 UTC'
    """
    time = datetime.now(UTC) if seconds is None else datetime.fromtimestamp(seconds, UTC)
    return f"{time:%Y-%m-%d %H:%M} UTC"


# ---- numbers ---------------------------------------------------------------------------------------


class Csv(NamedTuple):
    """The numbers behind a picture or a table, as a file that the page carries."""

    name: str
    text: str

    @property
    def uri(self) -> str:
        """Its bytes in an address, with the mark by which spreadsheets know UTF-8."""
        data = f"\ufeff{self.text}".encode()
        return f"data:text/csv;charset=utf-8;base64,{base64.b64encode(data).decode()}"

    @property
    def size(self) -> str:
        """How many lines it has."""
        lines = self.text.count("\n") - 1
        return f"{lines:,} line{'' if lines == 1 else 's'}"

    @property
    def beginning(self) -> str:
        """Its first lines."""
        lines = self.text.splitlines()
        rest = [f"… and {len(lines) - SHOWN_LINES:,} lines more"] if len(lines) > SHOWN_LINES else []
        return "\n".join(lines[:SHOWN_LINES] + rest)


def as_csv(name: str, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> Csv:
    """Rows as a CSV file; what is None stays empty, what no page may show is spelt out."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return Csv(name, text.getvalue().translate(_SPELT_OUT))


# ---- drawings --------------------------------------------------------------------------------------


class Text(NamedTuple):
    """Words or a number at a place of a drawing."""

    x: str
    y: str
    text: str
    anchor: str = "middle"


class Line(NamedTuple):
    """A line, coloured by the style sheet: `raw`, `main`, `other`."""

    path: str
    style: str


class Point(NamedTuple):
    """A dot, perhaps with its value beside it."""

    x: str
    y: str
    style: str
    text: Text | None = None


class Box(NamedTuple):
    """A rectangle: a column of a histogram, or a strip whose title shows where a pointer rests on it."""

    x: str
    y: str
    width: str
    height: str
    title: str = ""


class Drawing(NamedTuple):
    """A picture that the macro `drawing` writes as SVG; coordinates are in its own units."""

    label: str
    width: int
    height: int
    grid: Sequence[str] = ()
    texts: Sequence[Text] = ()
    marks: Sequence[str] = ()
    lines: Sequence[Line] = ()
    points: Sequence[Point] = ()
    bars: Sequence[Box] = ()
    strips: Sequence[Box] = ()


class Chart(NamedTuple):
    """A card with a drawing, the names of its lines where it has several, and its numbers."""

    title: str
    drawing: Drawing | None
    data: Csv | None
    key: Sequence[tuple[str, str]] = ()
    note: str = ""
