r"""Where sentences leave the program: names of files, titles and settings in them cannot steer the terminal.

A file may be called `a\x1b[2K.json`, and a title may hold U+202E, which turns what follows around. What is printed,
warned of, logged or shown in a table goes through here; ruff refuses `print` and `rich.console` elsewhere.
"""

from __future__ import annotations

import logging
import sys
import traceback
import unicodedata
import warnings
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console  # noqa: TID251

# Controls (C0 and C1), formats (bidi overrides, what has no width), half surrogates, separators of lines.
STEERING = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
NEWLINE, INDENT = "\n", "\n    "


def printable(text: str, kept: str = "") -> str:
    r"""Text for a terminal: what could move its cursor, change its colours or hide text becomes an escape.

    Args:
        text: of any origin.
        kept: control characters that stay.

    >>> print(printable("a\x1b[31m.json"), printable("阮\u202e佇"), printable("Lí hó\n"), printable("\x9b2K"))
    a\x1b[31m.json 阮\u202e佇 Lí hó\n \x9b2K
    """
    if text.isprintable():
        return text
    return "".join(
        c.encode("unicode_escape").decode() if unicodedata.category(c) in STEERING and c not in kept else c
        for c in text
    )


def paragraph(text: str) -> str:
    r"""Text of several lines for a terminal: those after the first are indented, so that none passes for a message.

    >>> print(paragraph("a\nerror: b\x07"))
    a
        error: b\x07
    """
    return printable(text.replace("\r\n", "\n").replace("\n", INDENT), kept="\n\t")


def print_line(line: str = "", *, error: bool = False, end: str = "\n", flush: bool = False) -> None:
    """Print one line.

    Args:
        line: its text; a line break in it is escaped too.
        error: to standard error.
        end: what follows.
        flush: at once.
    """
    print(f"{printable(line)}{end}", end="", file=sys.stderr if error else sys.stdout, flush=flush)


def print_text(text: object, *, end: str = "\n") -> None:
    """Print a text of several lines, such as `joined` makes of single ones."""
    print(f"{printable(str(text), kept=NEWLINE)}{end}", end="")  # noqa: T201


def print_written(text: str) -> None:
    """Print a piece of what a model writes: on a terminal escaped, to a pipe or a file as it is."""
    print(printable(text, kept="\n\t") if sys.stdout.isatty() else text, end="", flush=True)  # noqa: T201


def joined(*lines: str) -> str:
    r"""One line under the other; a line break in one of them is escaped, so that a name cannot forge a line.

    >>> joined("models/a\nAdapter: elsewhere", "4 steps").splitlines()
    ['models/a\\nAdapter: elsewhere', '4 steps']
    """
    return NEWLINE.join(printable(line) for line in lines)


def console(*, error: bool = False) -> Console:
    """Where tables and bars are drawn; their text stands for itself, without rich's markup.

    Args:
        error: on standard error.
    """
    from rich.console import Console  # noqa: TID251  (and half as heavy as all that parses a command line)
    from rich.text import Text

    class PlainConsole(Console):
        """A console that escapes each text before it is laid out."""

        def render_str(self, text: str, **options: Any) -> Text:
            return super().render_str(printable(text), **options)

    return PlainConsole(stderr=error, markup=False, emoji=False, highlight=False)


class _Record(logging.LogRecord):
    """A log record whose message cannot steer the terminal."""

    def getMessage(self) -> str:  # noqa: N802
        return paragraph(super().getMessage())


def escape_messages() -> None:
    """Let warnings, log records and tracebacks of this process be printed as `paragraph` has them."""
    logging.setLogRecordFactory(_Record)
    warnings.showwarning = _show_warning  # not formatwarning: Lightning puts its own in place
    sys.excepthook = _print_traceback


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    text = warnings.formatwarning(paragraph(str(message)), category, filename, lineno, line)
    print(text, end="", file=file or sys.stderr)


def _print_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    text = "".join(traceback.format_exception(kind, error, trace))
    print(printable(text, kept="\n\t"), end="", file=sys.stderr)  # noqa: T201
