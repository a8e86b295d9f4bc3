"""Counts of a run as the dictionary of report.json; `html_page` draws it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from corpus_tools.cleaning.language import SCRIPTS
from corpus_tools.documents import Counts, PartSummary

SAMPLES = 12  # of a rule
SPANS = 40  # most frequent changed spans of a rule


def _spread(items: Sequence[Any], wanted: int) -> list[Any]:
    """At most `wanted` items, evenly spread."""
    if len(items) <= wanted:
        return list(items)
    return [items[i * len(items) // wanted] for i in range(wanted)]


def _ranked(counter: Counter[Any]) -> dict[str, int]:
    return {str(k): n for k, n in sorted(counter.items(), key=lambda item: (-item[1], item[0]))}


def _sum(counters: Sequence[Counter[Any]]) -> Counter[Any]:
    result: Counter[Any] = Counter()
    for counter in counters:
        result.update(counter)
    return result


def corpus_report(
    options: Mapping[str, Any],
    counts: Counts,
    parts: Sequence[PartSummary],
    kinds: Mapping[str, Mapping[str, Any]],
    skipped: Mapping[str, str],
    passed_over: Sequence[str],
    validation_articles: int,
    sharing_titles: Mapping[str, int],
) -> dict[str, Any]:
    """All counts. Rows read = kept + dropped; a row counts with the paragraph in which it begins.

    Characters read + line breaks added = removed by rules + dropped + edges (line breaks between documents
    and around dropped paragraphs) + kept. Line breaks added include spaces between romanised words.
    `files_sharing_titles`: for each file with whose articles those of other files go on, how many files they are.
    `articles_with`: how many articles have a title, an author, a number in their first row.
    """
    documents = _sum([p.documents for p in parts])
    rules = _rules(counts)
    return {
        "options": dict(options),
        "rows": {
            "read": counts.rows,
            "kept": sum(p.rows_kept for p in parts),
            "dropped": _ranked(_sum([p.rows_dropped for p in parts])),
        },
        "characters": _characters(counts, parts, rules),
        "articles": {
            "read": counts.articles,
            "validation": validation_articles,
            "simplified": sum(p.simplified_articles for p in parts),
            "converted": counts.converted_articles,
        },
        "articles_with": {name: counts.fields[name] for name in ("title", "author", "paragraph_id")},
        "documents": {"total": sum(documents.values()), **documents},
        "rules": rules,
        "unknown_private_use": _ranked(_sum([p.unknown_private_use for p in parts])),
        "replacement_characters": sum(p.replacement_characters for p in parts),
        "garbled_articles": [found for part in parts for found in part.garbled],
        "overlaps": counts.hits,
        "lengths": {str(k): n for k, n in sorted(_sum([p.lengths for p in parts]).items())},
        "taigi_scores": {f"{k / 20:.2f}": n for k, n in sorted(_sum([p.scores for p in parts]).items())},
        "sources": _sources(counts, parts, kinds),
        "files_sharing_titles": dict(sharing_titles),
        "skipped_files": dict(skipped),
        "passed_over_files": list(passed_over),
    }


def lack_of_titles(report: Mapping[str, Any]) -> str:
    """What to say where rows are too short because none has a title; "" where that is not so."""
    too_short = report["rows"]["dropped"].get("too_short", 0) if "rows" in report else 0
    if too_short < 2 or report["articles_with"]["title"]:
        return ""
    return (
        " No row has a title, so each is an article of its own: where several are one, name the column or key that "
        "they share with --fields.title."
    )


def _rules(counts: Counts) -> dict[str, Any]:
    """What each rule did, those that removed most first."""
    rules = {}
    for rule in sorted(counts.changes, key=lambda r: (-counts.removed[r], r)):
        spans = _ranked(counts.spans.get(rule, Counter()))
        rules[rule] = {
            "changes": counts.changes[rule],
            "characters_removed": counts.removed[rule],
            "stretches": dict(list(spans.items())[:SPANS]),
            "samples": _spread(counts.samples.get(rule, []), SAMPLES),
        }
    return rules


def _sources(
    counts: Counts, parts: Sequence[PartSummary], kinds: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Of each file: rows, what they were taken for and why, articles, characters read and kept, scripts, documents.

    An article of several files counts for the file in which it begins.
    """
    kept: dict[str, Counter[str]] = {}
    for part in parts:
        for source, found in part.sources.items():
            kept.setdefault(source, Counter()).update(found)
    names = ("documents", "kept", *SCRIPTS)
    return [
        {"source": source, "rows_are": dict(kinds.get(source, {}))}
        | {name: read[name] for name in ("rows", "articles", "characters")}
        | {name: kept.get(source, Counter())[name] for name in names}
        for source, read in sorted(counts.sources.items())
    ]


def _characters(counts: Counts, parts: Sequence[PartSummary], rules: Mapping[str, Any]) -> dict[str, Any]:
    """Where the characters went, see `corpus_report`."""
    dropped = _sum([p.characters_dropped for p in parts])
    return {
        "read": counts.characters,
        "line_breaks_added": counts.line_breaks,
        "removed_by_rule": {rule: counts.removed[rule] for rule in rules},
        "dropped": _ranked(Counter({r: n for r, n in dropped.items() if r not in rules})),
        "edges": sum(p.edges for p in parts),
        "kept": sum(sum(p.characters.values()) for p in parts),
    }
