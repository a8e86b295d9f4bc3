"""Tables with tabs whose values begin with a quotation mark: quoted as Excel does it, or speech."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

# A value as Excel quotes it; the beginning of one that goes on in the next line; any other value without a quote first.
_WELL_QUOTED = re.compile(r'"(?:[^"]|"")*"|[^"].*|', re.DOTALL)
_LEFT_OPEN = re.compile(r'"(?:[^"]|"")*')


def with_speech_quoted(lines: Iterable[str]) -> Iterator[str]:
    """The lines of a table for a reader that takes every quote as Excel writes it: values that are speech are quoted.

    Such a value is not closed as Excel would close it, and its line is a row by itself: it has the tabs of the header,
    and so has the next line, if there is one.

    >>> rows = ["id\\ttext", '1\\t"Kia ora," he said.', '2\\t"He said', '3\\t"a ""b"" c"', '4\\t"d', 'e"']
    >>> [line.count('"') for line in with_speech_quoted(rows)]
    [0, 6, 4, 6, 1, 1]
    """
    following = iter(lines)
    line = next(following, "")
    tabs = line.count("\t")
    inside = False  # a value of several lines
    while line:
        after = next(following, "")
        if inside:
            inside = line.count('"') % 2 == 0
        elif '"' in line:
            values = line.rstrip("\r\n").split("\t")
            wrong = [value for value in values if not _WELL_QUOTED.fullmatch(value)]
            a_row = len(values) == tabs + 1
            open_end = wrong[-1:] == values[-1:] and _LEFT_OPEN.fullmatch(values[-1]) is not None
            if (
                open_end
                and len(wrong) == 1
                and not (a_row and tabs and (not after or after.count("\t") == tabs))
            ):
                inside = True
            elif wrong and a_row:
                line = "\t".join(map(_quoted, values)) + line[len(line.rstrip("\r\n")) :]
        yield line
        line = after


def _quoted(value: str) -> str:
    """A value that is speech, quoted; any other one as it is."""
    return value if _WELL_QUOTED.fullmatch(value) else '"' + value.replace('"', '""') + '"'
