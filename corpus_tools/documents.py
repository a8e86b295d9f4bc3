"""The records that flow through the cleaner, each knowing where it came from."""

from __future__ import annotations

import msgspec


class Row(msgspec.Struct, frozen=True, gc=False):
    """One input row: a window of an article. `paragraph_id` orders the rows of a title."""

    text: str
    title: str | None = None
    author: str | None = None
    paragraph_id: int | None = None


class Article(msgspec.Struct, gc=False):
    """All rows of one title, joined.

    `text` holds one paragraph a line. `rows[i]` is the number of an input row in its file, from 1, and
    `first_lines[i]` the line of the text, from 0, on which that row begins.
    """

    title: str
    author: str
    source: str
    text: str
    rows: list[int]
    first_lines: list[int]
