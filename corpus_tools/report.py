"""Counts of a run as report.json's dictionary and as a self-contained page with plots."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from corpus_tools.documents import Tally

if TYPE_CHECKING:
    from corpus_tools.parts import PartSummary
    from corpus_tools.shards import ShardSummary

SAMPLES = 12  # of a rule
STRETCHES = 40  # most frequent changed stretches of a rule


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
    shards: Sequence[ShardSummary],
    parts: Sequence[PartSummary],
    passed_over: Sequence[str],
    validation_articles: int,
) -> dict[str, Any]:
    """All counts. Rows read = kept + dropped; a row counts with the paragraph in which it begins.

    Characters read + line breaks added = removed by rules + dropped + edges (line breaks between documents
    and around dropped paragraphs) + kept.
    """
    tally = Tally()
    for shard in shards:
        tally.add(shard.tally)
    documents, characters = _sum([p.documents for p in parts]), _sum([p.characters for p in parts])
    dropped = _sum([p.characters_dropped for p in parts])
    rules = {}
    for rule in sorted(tally.changes, key=lambda r: (-tally.removed[r], r)):
        stretches = _ranked(tally.stretches.get(rule, Counter()))
        rules[rule] = {
            "changes": tally.changes[rule],
            "characters_removed": tally.removed[rule],
            "stretches": dict(list(stretches.items())[:STRETCHES]),
            "samples": _spread(tally.samples.get(rule, []), SAMPLES),
        }
    return {
        "options": dict(options),
        "rows": {
            "read": tally.rows,
            "kept": sum(p.rows_kept for p in parts),
            "dropped": _ranked(_sum([p.rows_dropped for p in parts])),
        },
        "characters": {
            "read": tally.characters,
            "line_breaks_added": tally.line_breaks,
            "removed_by_rule": {rule: tally.removed[rule] for rule in rules},
            "dropped": _ranked(Counter({r: n for r, n in dropped.items() if r not in rules})),
            "edges": sum(p.edges for p in parts),
            "kept": sum(characters.values()),
        },
        "articles": {
            "read": tally.articles,
            "validation": validation_articles,
            "simplified": sum(p.simplified_articles for p in parts),
            "converted": tally.converted_articles,
        },
        "documents": {"total": sum(documents.values()), **documents},
        "rules": rules,
        "unknown_private_use": _ranked(_sum([p.unknown_private_use for p in parts])),
        "replacement_characters": sum(p.replacement_characters for p in parts),
        "overlaps": tally.hits,
        "lengths": {str(k): n for k, n in sorted(_sum([p.lengths for p in parts]).items())},
        "taigi_scores": {f"{k / 20:.2f}": n for k, n in sorted(_sum([p.scores for p in parts]).items())},
        "skipped_files": {", ".join(s.sources): s.error for s in shards if s.error},
        "passed_over_files": list(passed_over),
    }


_STYLE = """
:root{color-scheme:light dark;--bar:#2a7f62;--dim:#777}
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:0 auto;padding:1rem}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem}
.figures{display:flex;flex-wrap:wrap;gap:.5rem 2rem}.figures b{display:block;font-size:1.4rem}
svg{width:100%;height:auto;display:block}svg text{font-size:13px;fill:currentColor}rect{fill:var(--bar)}
table{border-collapse:collapse;width:100%;font-size:.9rem}td,th{text-align:left;padding:.2rem .5rem;
border-bottom:1px solid #8884;vertical-align:top;overflow-wrap:anywhere}
del{background:#f8514944}ins{background:#2ea04344;text-decoration:none}.dim{color:var(--dim)}
"""


def _bars(values: Mapping[str, int], label: str) -> str:
    """A horizontal bar chart as inline SVG, one bar a value."""
    if not values:
        return "<p class=dim>none</p>"
    most, height = max(*values.values(), 1), 22
    rows = []
    for i, (name, value) in enumerate(values.items()):
        y = i * height
        rows.append(
            f'<text x="150" y="{y + 15}" text-anchor="end">{escape(name)}</text>'
            f'<rect x="158" y="{y + 3}" width="{max(1.0, 330 * value / most):.1f}" height="16"/>'
            f'<text x="{164 + 330 * value / most:.1f}" y="{y + 15}">{value:,}</text>'
        )
    box = f'viewBox="0 0 580 {len(values) * height}" role="img" aria-label="{escape(label)}"'
    return f"<svg {box}>{''.join(rows)}</svg>"


def _marked(before: str, after: str) -> str:
    """Before and after with the part that differs marked."""
    start = next((i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), len(after))
    return (
        f"<td>{escape(before[:start])}<del>{escape(before[start : start + 12])}</del>"
        f"{escape(before[start + 12 :])}</td><td>{escape(after[:start])}<ins>{escape(after[start : start + 12])}</ins>"
        f"{escape(after[start + 12 :])}</td>"
    )


def _rule_section(name: str, rule: Mapping[str, Any]) -> str:
    samples = "".join(
        f"<tr><td class=dim>{escape(s['source'])}<br>{escape(s['title'])}</td>{_marked(s['before'], s['after'])}</tr>"
        for s in rule["samples"]
    )
    frequent = ", ".join(f"{escape(repr(k)[1:-1])} × {n:,}" for k, n in list(rule["stretches"].items())[:20])
    return (
        f"<details><summary><b>{escape(name)}</b>: {rule['changes']:,} changes, "
        f"{rule['characters_removed']:,} characters fewer</summary>"
        f"<p class=dim>{frequent}</p>"
        f"<table><tr><th>where</th><th>before</th><th>after</th></tr>{samples}</table></details>"
    )


def _table(title: str, values: Mapping[str, Any]) -> str:
    rows = "".join(f"<tr><td>{escape(str(k))}</td><td>{escape(str(v))}</td></tr>" for k, v in values.items())
    return f"<h2>{escape(title)}</h2><table>{rows}</table>" if rows else ""


def render_page(report: Mapping[str, Any]) -> str:
    """The report as one HTML file that loads nothing else."""
    rows, characters, documents = report["rows"], report["characters"], report["documents"]
    figures = {
        "rows read": rows["read"],
        "rows kept": rows["kept"],
        "articles": report["articles"]["read"],
        "documents": documents["total"],
        "characters kept": characters["kept"],
        "validation documents": documents.get("validation", 0),
    }
    top = "".join(f"<span><b>{value:,}</b>{name}</span>" for name, value in figures.items())
    lengths = {f"{k}-{int(k) + 127}": n for k, n in report["lengths"].items()}
    overlaps = {
        f"question {h['question']}": f"{h['source']} row {h['row']}, {h['title']}: {h['shared']}"
        for h in report["overlaps"]
    }
    return f"""<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width,initial-scale=1"><title>Corpus report</title>
<style>{_STYLE}</style><h1>Corpus report</h1><div class=figures>{top}</div>
<h2>Document length, characters</h2>{_bars(lengths, "documents by length")}
<h2>Taigi score</h2>{_bars(report["taigi_scores"], "documents by Taigi score")}
<h2>Characters removed, by rule</h2>{_bars(characters["removed_by_rule"], "characters by rule")}
<h2>Characters dropped, by reason</h2>{_bars(characters["dropped"], "characters dropped")}
<h2>Rows dropped, by reason</h2>{_bars(rows["dropped"], "rows dropped, duplicates among them")}
<h2>Unknown private-use characters</h2>{_bars(report["unknown_private_use"], "unknown characters")}
<p>U+FFFD, kept: {report["replacement_characters"]:,}. Articles that look Simplified:
{report["articles"]["simplified"]:,}.</p>
<h2>What each rule changed</h2>{"".join(_rule_section(n, r) for n, r in report["rules"].items())}
{_table("Overlaps with the evaluation questions", overlaps)}
{_table("Skipped files", report["skipped_files"])}
{_table("Options", report["options"])}</html>
"""
