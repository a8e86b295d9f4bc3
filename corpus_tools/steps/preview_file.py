"""The changes that the rules make to one file, article by article; nothing is written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from corpus_tools.cleaning.optional_rules import extra_rules
from corpus_tools.cleaning.rules import LINE_BREAK, RULES, rule_steps
from corpus_tools.documents import OptionalRule, OwnRule
from corpus_tools.files.readers import read_rows
from corpus_tools.files.sources import Source
from corpus_tools.steps.merge_rows import group_rows, merge_rows
from corpus_tools.steps.row_kinds import RowKind, kind_of_rows


class Change(NamedTuple):
    """A line that a rule changed, and in how many places."""

    rule: str
    title: str
    before: str
    after: str
    places: int


def changes_of(
    path: Path,
    fields: Mapping[str, str],
    rows_are: RowKind | Literal["auto"] = "auto",
    optional: Sequence[OptionalRule] = (),
    own: Sequence[OwnRule] = (),
) -> Iterator[Change]:
    """Every line that a rule changes, in order of articles and rules; the counts are those of a run of `clean`.

    Raises:
        InputError: The file cannot be used.
    """
    extra = extra_rules(optional, own)
    rows = read_rows(Source(path.name, path), fields)
    kind = kind_of_rows(rows).kind if rows_are == "auto" else rows_are
    for group in group_rows(rows):
        first = rows[group[0]]
        texts, numbers = [rows[i].text for i in group], [i + 1 for i in group]
        article = merge_rows(texts, numbers, first.title, first.author, path.name, kind)
        text = article.text
        for rule in (*extra, *RULES):
            if rule == RULES[0]:
                text = text.replace(LINE_BREAK, "\n")
            for step in rule_steps(rule, text):
                text = step.after
                places = [at for at, spans in step.log for _ in spans]
                yield from _changed_lines(rule.name, article.title, step.before, step.after, len(places))


def _changed_lines(rule: str, title: str, before: str, after: str, count: int) -> Iterator[Change]:
    """The lines that differ; the first of them carries the count of a step."""
    for old, new in zip(before.split("\n"), after.split("\n"), strict=True):
        if old != new:
            yield Change(rule, title, old, new.replace(LINE_BREAK, "\n"), count)
            count = 0
