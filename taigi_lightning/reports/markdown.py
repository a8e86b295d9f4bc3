"""Foreign text inside Markdown: names, paths and settings that must not become markup of a page."""

from __future__ import annotations

import re
from typing import Any

from taigi_lightning.reports.page import printable

_MARKUP = re.compile(r"[\\`*\[\]<>|#&~!]|(?<!\w)_|_(?!\w)")


def plain(value: Any) -> str:
    r"""A value as words of one line, without markup.

    >>> print(plain("a|b <img>\nsnake_case _x_"))
    a\|b \<img\> snake_case \_x\_
    """
    return _MARKUP.sub(r"\\\g<0>", _line(value))


def code(value: Any) -> str:
    """A value as a span of code of one line, fit for a cell of a table too.

    >>> print(code("a `b` | c"))
    `` a `b` \\| c ``
    """
    text = _line(value).replace("|", "\\|")  # a table ends a cell there even inside code
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    space = " " if "`" in text else ""
    return f"{fence}{space}{text}{space}{fence}"


def _line(value: Any) -> str:
    return " ".join(str(printable(value)).split())
