"""The changes that the rules make to one file, article by article; nothing is written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from corpus_tools.cleaning.rules import clean_steps
from corpus_tools.files.readers import read_rows
from corpus_tools.files.sources import Source
from corpus_tools.steps.merge_rows import group_rows, merge_rows


class Change(NamedTuple):
    """A line that a rule changed."""

    rule: str
    title: str
    before: str
    after: str


def changes_of(path: Path, fields: Mapping[str, str]) -> Iterator[Change]:
    """Every line that a rule changes, in order of articles and rules.

    Raises:
        InputError: The file cannot be used.
    """
    rows = read_rows(Source(path.name, path), fields)
    for group in group_rows(rows):
        first = rows[group[0]]
        texts, numbers = [rows[i].text for i in group], [i + 1 for i in group]
        article = merge_rows(texts, numbers, first.title, first.author, path.name)
        for step in clean_steps(article.text):
            lines = zip(step.before.split("\n"), step.after.split("\n"), strict=True)
            for before, after in lines:
                if before != after:
                    yield Change(step.rule, article.title, before, after)
