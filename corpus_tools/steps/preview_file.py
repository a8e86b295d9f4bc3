"""The changes that the rules make to one file, article by article; nothing is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from operator import ne
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, NamedTuple

from corpus_tools.cleaning.language import looks_simplified
from corpus_tools.cleaning.optional_rules import extra_rules
from corpus_tools.cleaning.rules import LINE_BREAK, RULES, Rule, rule_steps
from corpus_tools.documents import Article, Counts, OptionalRule, OwnRule
from corpus_tools.files.sources import Source
from corpus_tools.files.streams import is_large
from corpus_tools.steps.clean_shard import ShardOptions, articles_of, read_unit
from corpus_tools.steps.cut_file import cut_file
from corpus_tools.steps.executor import run_tasks
from corpus_tools.steps.gather import gather
from corpus_tools.steps.row_kinds import RowKind
from corpus_tools.steps.units import Unit


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
    convert_simplified: bool = False,
) -> Iterator[Change]:
    """Every line that a rule changes, in order of articles and rules; the counts are those of a run of `clean`.

    Of a large file no more is in memory than a part, or the longest article.

    Raises:
        InputError: The file cannot be used.
    """
    rules = (*extra_rules(optional, own), *RULES)
    options = ShardOptions(fields, rows_are)
    source = Source(path.name, path)
    with TemporaryDirectory(prefix="corpus-preview-") as folder:
        for unit in _units(source, Path(folder), options):
            given = read_unit(unit, None, options)
            for article in articles_of(given, unit, Counts(sources={source.name: Counter()}), []):
                yield from _conversion(article) if convert_simplified else ()
                yield from _changes_of_article(article, rules)


def _units(source: Source, folder: Path, options: ShardOptions) -> list[Unit]:
    """The file, or the parts of a large one, which lie in a folder meanwhile: so `clean` reads it too."""
    if not is_large(source):
        return [Unit((source,))]
    run = partial(run_tasks, None, lambda step, done, total: None)
    return gather([source], [cut_file(source, folder, options)], folder / "group", options, run)


def _conversion(article: Article) -> Iterator[Change]:
    """The lines that are Simplified, if the article is; it is in Traditional characters then."""
    if looks_simplified(article.text):
        from corpus_tools.cleaning.simplified import to_traditional  # for those who ask for it

        before, article.text = article.text, to_traditional(article.text)
        characters = sum(map(ne, before, article.text))
        yield from _changed_lines("convert_simplified", article.title, before, article.text, characters)


def _changes_of_article(article: Article, rules: Sequence[Rule]) -> Iterator[Change]:
    text = article.text
    for rule in rules:
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
