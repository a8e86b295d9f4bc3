"""The records that flow through the cleaner, each knowing where it came from."""

from __future__ import annotations

from collections import Counter

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


class Cut(msgspec.Struct, array_like=True, gc=False):
    """A stretch that will not be in the corpus: `rows` input rows, the first of them number `row`."""

    row: int
    rows: int
    reason: str
    text: str


class CleanedArticle(msgspec.Struct, array_like=True, gc=False):
    """A cleaned article, a paragraph a line, none empty; for each the row it begins in and the rows beginning in it.

    `text` is UTF-8, as it is hashed and stored, and `length` its characters; `characters` counts those of the
    text when the rules had run, before empty lines were left out and decontamination.
    """

    title: str
    author: str
    source: str
    characters: int
    length: int
    text: bytes
    first_rows: list[int]
    row_counts: list[int]
    cuts: list[Cut]


class Tally(msgspec.Struct):
    """Counts of the report; those of shards add up."""

    rows: int = 0
    articles: int = 0
    characters: int = 0
    line_breaks: int = 0  # added between paragraphs, less carriage returns
    changes: Counter[str] = msgspec.field(default_factory=Counter)
    removed: Counter[str] = msgspec.field(default_factory=Counter)
    stretches: dict[str, Counter[str]] = msgspec.field(default_factory=dict)
    samples: dict[str, list[dict[str, str]]] = msgspec.field(default_factory=dict)
    converted_articles: int = 0
    hits: list[dict[str, str]] = msgspec.field(default_factory=list)

    def add(self, other: Tally) -> None:
        """Add another tally's counts; samples and hits follow in order."""
        for name in ("rows", "articles", "characters", "line_breaks"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.converted_articles += other.converted_articles
        self.changes.update(other.changes)
        self.removed.update(other.removed)
        for rule, stretches in other.stretches.items():
            self.stretches.setdefault(rule, Counter()).update(stretches)
        for rule, samples in other.samples.items():
            self.samples.setdefault(rule, []).extend(samples)
        self.hits.extend(other.hits)
