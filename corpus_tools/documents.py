"""The records that flow through the cleaner, each knowing where it came from."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal
from unicodedata import normalize

import msgspec

HALF_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}  # of each full-width character
MOST_SAMPLES = 96  # of a rule, in some counts


OptionalRule = Literal["mojibake", "html", "pages", "han_spaces", "contacts", "mask_contacts", "tailo", "poj"]


@dataclass(frozen=True)
class OwnRule:
    """A rule of the user's own.

    Args:
        name: Its name in the report.
        pattern: Regular expression (of the library `regex`: \\p{Han} works); no match may hold a line break.
        replacement: What matches become; \\1 stands for the first group.
        matches: Examples that the pattern must find something in.
        leaves: Examples that it must find nothing in.
    """

    name: str
    pattern: str
    replacement: str = ""
    matches: list[str] = field(default_factory=list)
    leaves: list[str] = field(default_factory=list)


def name_of(name: str | None) -> str:
    """A title or an author as documents have it: without spaces around it, one for several inside,
    composed; "" for none.

    >>> name_of(" 春天  的詩\\u3000"), name_of("Ta\u0302i") == "T\xe2i", name_of(None)
    ('春天 的詩', True, '')
    """
    return normalize("NFC", " ".join(name.split())) if name else ""


def key_of_name(name: str | None) -> str:
    """What titles and authors are told apart by: a name in one width, so that （一） is (一).

    >>> key_of_name("春天（一）") == key_of_name(" 春天(一)")
    True
    """
    return name_of(name).translate(HALF_WIDTH)


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
    """A span of text that will not be in the corpus: `rows` input rows, the first of them number `row`."""

    row: int
    rows: int
    reason: str
    text: str


class CleanedArticle(msgspec.Struct, array_like=True, gc=False):
    """What is known of a cleaned article, whose text lies elsewhere: a paragraph a line, none of them empty.

    For each paragraph, the row it begins in and the number of rows that begin in it. `characters` counts those
    of the text when the rules had run, before empty lines were left out and decontamination; `length` and `size`
    are the characters and the bytes that are left.
    """

    title: str
    author: str
    source: str
    characters: int
    first_rows: list[int]
    row_counts: list[int]
    cuts: list[Cut]
    length: int
    size: int


class Counts(msgspec.Struct):
    """Counts of the report; those of shards add up."""

    rows: int = 0
    articles: int = 0
    characters: int = 0
    line_breaks: int = 0  # added between paragraphs, and spaces between words, less carriage returns
    changes: Counter[str] = msgspec.field(default_factory=Counter)
    removed: Counter[str] = msgspec.field(default_factory=Counter)
    spans: dict[str, Counter[str]] = msgspec.field(default_factory=dict)
    samples: dict[str, list[dict[str, str]]] = msgspec.field(default_factory=dict)
    converted_articles: int = 0
    sources: dict[str, Counter[str]] = msgspec.field(
        default_factory=dict
    )  # rows, articles, characters of each file
    hits: list[dict[str, str]] = msgspec.field(default_factory=list)
    # articles that have a title, an author, numbers
    fields: Counter[str] = msgspec.field(default_factory=Counter)

    def add(self, other: Counts) -> None:
        """Add the counts of later articles; hits and samples are appended, samples thinned out where they are many."""
        for name in ("rows", "articles", "characters", "line_breaks"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.converted_articles += other.converted_articles
        self.changes.update(other.changes)
        self.fields.update(other.fields)
        self.removed.update(other.removed)
        for rule, spans in other.spans.items():
            self.spans.setdefault(rule, Counter()).update(spans)
        for rule, samples in other.samples.items():
            kept = self.samples.setdefault(rule, [])
            kept += samples
            if len(kept) > MOST_SAMPLES:
                del kept[1::2]
        for source, found in other.sources.items():
            self.sources.setdefault(source, Counter()).update(found)
        self.hits.extend(other.hits)


class PartSummary(msgspec.Struct):
    """What a part holds: files and the sha256 of those of documents, document hashes in order, counts.

    `sources`: of each input file its documents, the characters kept, and those of each script.
    """

    files: dict[str, str] = msgspec.field(default_factory=dict)
    hashes: bytes = b""
    documents: Counter[str] = msgspec.field(default_factory=Counter)
    characters: Counter[str] = msgspec.field(default_factory=Counter)
    rows_kept: int = 0
    rows_dropped: Counter[str] = msgspec.field(default_factory=Counter)
    characters_dropped: Counter[str] = msgspec.field(default_factory=Counter)
    edges: int = 0
    lengths: Counter[int] = msgspec.field(default_factory=Counter)
    scores: Counter[int] = msgspec.field(default_factory=Counter)
    unknown_private_use: Counter[str] = msgspec.field(default_factory=Counter)
    replacement_characters: int = 0
    simplified_articles: int = 0
    garbled: list[dict[str, str]] = msgspec.field(default_factory=list)
    sources: dict[str, Counter[str]] = msgspec.field(default_factory=dict)
