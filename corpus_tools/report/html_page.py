"""report.json as a page that people read: one file without scripts, for phone and desk, day and night."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from difflib import SequenceMatcher
from html import escape
from typing import Any

LENGTH_STEP = 128  # characters in a bin of the lengths
SCORE_STEP = 0.05
WIDTH, HEIGHT, LEFT, BOTTOM = 400, 190, 48, 40

_STYLE = """
:root{color-scheme:light dark;--back:#f6f5f1;--card:#fff;--text:#1d2125;--soft:#5f666e;--rule:#e3e1da;
--main:#0b6e63;--track:#eceae3;--gone:#f8514933;--new:#2ea04333}
@media(prefers-color-scheme:dark){:root{--back:#14171a;--card:#1d2226;--text:#e8e6e1;--soft:#9aa3ab;--rule:#323a41;
--main:#4fd1bd;--track:#2a3137;--gone:#f8514966;--new:#2ea04366}}
*{box-sizing:border-box}
body{margin:0;background:var(--back);color:var(--text);line-height:1.6;-webkit-text-size-adjust:100%;
font-family:system-ui,-apple-system,"Segoe UI","Noto Sans","PingFang TC","Microsoft JhengHei","Noto Sans TC",
"Noto Sans CJK TC","MingLiU-ExtB","HanaMinB",sans-serif}
main{max-width:66rem;margin:0 auto;padding:1.25rem 1rem 3rem}
h1{font-size:1.5rem;line-height:1.25;margin:.25rem 0 .9rem}h2{font-size:1.15rem;margin:2.2rem 0 .75rem}
h3{font-size:.95rem;margin:0 0 .5rem}small,.soft{color:var(--soft)}h3 small{font-weight:400;margin-left:.3rem}
.tiles{display:grid;gap:.6rem;grid-template-columns:repeat(auto-fit,minmax(8.5rem,1fr))}
.pair{display:grid;gap:.8rem;grid-template-columns:repeat(auto-fit,minmax(min(100%,24rem),1fr))}
.card,.tile{background:var(--card);border:1px solid var(--rule);border-radius:.7rem;padding:.8rem .9rem;min-width:0}
.tile b{display:block;font-size:1.35rem;line-height:1.3;font-variant-numeric:tabular-nums}
.tile span{color:var(--soft);font-size:.85rem;line-height:1.3;display:block}
.bar{display:grid;grid-template-columns:1fr auto;gap:0 .6rem;margin:.4rem 0;overflow-wrap:anywhere}
.bar em{font-style:normal;color:var(--soft);font-variant-numeric:tabular-nums}
.track{grid-column:1/3;height:.45rem;border-radius:.3rem;background:var(--track);overflow:hidden}
.track i{display:block;height:100%;background:var(--main)}
svg{display:block;width:100%;height:auto}rect{fill:var(--main)}
svg text{font-size:12px;fill:var(--soft);font-variant-numeric:tabular-nums}
@media(max-width:30rem){svg text{font-size:14px}}.grid{stroke:var(--rule);fill:none}
details{margin-bottom:.6rem}summary{cursor:pointer;padding:.1rem 0}
.sample{border-top:1px solid var(--rule);padding:.45rem 0;overflow-wrap:anywhere}
.sample p{margin:.1rem 0;line-height:1.8}
del{background:var(--gone);border-radius:.2rem}ins{background:var(--new);text-decoration:none;border-radius:.2rem}
table{border-collapse:collapse;width:100%;font-size:.9rem}
td{border-top:1px solid var(--rule);padding:.3rem 1rem .3rem 0;vertical-align:top;overflow-wrap:anywhere}
td:first-child{color:var(--soft);width:35%}.card>p{margin:.3rem 0}tr:first-child td{border-top:0}
"""


def render_page(report: Mapping[str, Any]) -> str:
    """The report of `corpus_report` as one HTML file that loads nothing else."""
    rules = "".join(_rule(name, rule) for name, rule in report["rules"].items())
    lengths = {float(start): count for start, count in report["lengths"].items()}
    scores = {float(start): count for start, count in report["taigi_scores"].items()}
    overlaps = [
        (f"question {hit['question']}", f"{hit['source']} row {hit['row']}, {hit['title']}: {hit['shared']}")
        for hit in report["overlaps"]
    ]
    longest = max([report["options"].get("max_chars") or 0, *lengths])
    return f"""<!doctype html><html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width,initial-scale=1"><title>Corpus report</title>
<style>{_STYLE}</style></head><body><main><h1>Corpus report</h1>{_tiles(report)}
<h2>What went where</h2><div class=pair>
<section class=card><h3>Characters <small>of {report["characters"]["read"]:,} read</small></h3>
{_characters(report["characters"])}</section>
<section class=card><h3>Rows <small>of {report["rows"]["read"]:,} read</small></h3>
{_rows(report["rows"])}</section></div>
<h2>What is in it</h2><div class=pair>
<section class=card><h3>Documents by length</h3>{_columns(lengths, LENGTH_STEP, longest, "characters")}</section>
<section class=card><h3>Documents by Taigi score <small>1 is all Taigi</small></h3>
{_columns(scores, SCORE_STEP, 1.0, "Taigi score")}</section></div>
<h2>What each rule changed</h2>{rules or "<p class=soft>Nothing.</p>"}
<h2>Characters to look at</h2><section class=card>{_odd_characters(report)}</section>
{_table("Overlaps with the evaluation questions", overlaps)}
{_table("Skipped files", report["skipped_files"].items())}
{_table("Options", report["options"].items())}</main></body></html>
"""


def _tiles(report: Mapping[str, Any]) -> str:
    characters, documents = report["characters"], report["documents"]
    figures = {
        "articles": f"{report['articles']['read']:,}",
        "documents": f"{documents['total']:,}",
        "of them held out": f"{documents.get('validation', 0):,}",
        "characters kept": f"{characters['kept']:,}",
        "of the characters read": f"{characters['kept'] / max(1, characters['read']):.1%}",
    }
    tiles = "".join(
        f"<div class=tile><b>{value}</b><span>{name}</span></div>" for name, value in figures.items()
    )
    return f"<div class=tiles>{tiles}</div>"


def _characters(characters: Mapping[str, Any]) -> str:
    read = max(1, characters["read"])
    removed = sum(characters["removed_by_rule"].values())
    parts = {"kept": characters["kept"], "removed by rules": removed}
    parts |= {f"dropped: {_words(reason)}": count for reason, count in characters["dropped"].items()}
    return "".join(_bar(name, count, count / read) for name, count in parts.items())


def _rows(rows: Mapping[str, Any]) -> str:
    parts = {"kept": rows["kept"]}
    parts |= {f"dropped: {_words(reason)}": count for reason, count in rows["dropped"].items() if count}
    return "".join(_bar(name, count, count / max(1, rows["read"])) for name, count in parts.items())


def _bar(name: str, count: int, share: float) -> str:
    width = min(100.0, 100 * max(share, 0.0))
    figure = f"{share:.1%}" if share >= 0.0005 or not count else "under 0.1%"
    return (
        f"<div class=bar><span>{escape(name)}</span><em>{count:,} · {figure}</em>"
        f'<div class=track><i style="width:{width:.1f}%"></i></div></div>'
    )


def _columns(counts: Mapping[float, int], step: float, end: float, x_name: str) -> str:
    """Counts by where their bin of width `step` begins, as columns over an axis from 0 to `end`."""
    if not counts:
        return "<p class=soft>none</p>"
    bins = max(1, round(end / step), *(round(start / step) + 1 for start in counts))
    most, room = max(counts.values()), HEIGHT - BOTTOM - 18
    wide = (WIDTH - LEFT - 12) / bins
    parts = []
    for count in (0, most):
        y = HEIGHT - BOTTOM - count / most * room
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - 12}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{count:,}</text>')
    for start, count in counts.items():
        tall = max(1.0, count / most * room)
        parts.append(
            f'<rect x="{LEFT + round(start / step) * wide + 0.5:.1f}" y="{HEIGHT - BOTTOM - tall:.1f}" '
            f'width="{max(1.0, wide - 1):.1f}" height="{tall:.1f}" rx="1.5"/>'
        )
    for part in range(5):
        value = part / 4 * end
        x = LEFT + value / step * wide
        text = f"{value:,.0f}" if step >= 1 else f"{value:.2g}"
        anchor = "end" if part == 4 else "middle"  # the last would leave the picture
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - 22}" text-anchor="{anchor}">{text}</text>')
    parts.append(f'<text x="{WIDTH - 12}" y="{HEIGHT - 5}" text-anchor="end">{escape(x_name)}</text>')
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(x_name)}">{"".join(parts)}</svg>'
    )


def _rule(name: str, rule: Mapping[str, Any]) -> str:
    samples = "".join(
        f"<div class=sample><small>{escape(sample['source'])} · {escape(sample['title'])}</small>"
        f'<p lang="nan-Hant-TW">{marked(sample["before"], sample["after"])}</p></div>'
        for sample in rule["samples"]
    )
    frequent = ", ".join(f"{visible(text)} × {n:,}" for text, n in list(rule["stretches"].items())[:20])
    often = f"<p class=soft>Most often: {frequent}</p>" if frequent else ""
    effect = (
        f"{_counted(rule['changes'], 'change')}, {_counted(rule['characters_removed'], 'character')} fewer"
    )
    return (
        f"<details class=card><summary><b>{escape(_words(name))}</b> <span class=soft>{effect}</span></summary>"
        f"{often}{samples}</details>"
    )


def marked(before: str, after: str) -> str:
    """One text as HTML in which what a rule took away and what it put there are marked.

    Both may be windows of a longer text, of which `after` goes on where `before` has ended: that is no change.

    >>> marked("看https://is.gd/x喔", "看喔好啊")
    '看<del>https://is.gd/x</del>喔'
    >>> marked("講......", "講……")
    '講<del>......</del><ins>……</ins>'
    """
    parts = []
    for kind, start, end, new_start, new_end in SequenceMatcher(
        None, before, after, autojunk=False
    ).get_opcodes():
        if kind == "equal":
            parts.append(escape(before[start:end]))
            continue
        if end == len(before) and new_end - new_start > end - start:
            break
        if start < end:
            parts.append(f"<del>{visible(before[start:end])}</del>")
        if new_start < new_end:
            parts.append(f"<ins>{visible(after[new_start:new_end])}</ins>")
    return "".join(parts)


def visible(text: str) -> str:
    """Text as HTML in which spaces, line breaks and characters without a shape of their own can be seen.

    >>> visible("a \\n"), visible("\\ue701"), visible("e\\u0301"), visible("é")
    ('a␣↵', '[U+E701]', 'e[U+0301]', 'é')
    """
    shapes = {" ": "␣", "\n": "↵", "\t": "⇥"}
    return "".join(
        shapes.get(character) or (f"[U+{ord(character):04X}]" if _shapeless(character) else escape(character))
        for character in text
    )


def _shapeless(character: str) -> bool:
    """Whether nothing is drawn for a character, or what is drawn for another one."""
    return (
        unicodedata.category(character)[0] in "CZ"
        or unicodedata.combining(character) > 0
        or not unicodedata.is_normalized("NFC", character)
    )


def _odd_characters(report: Mapping[str, Any]) -> str:
    unknown = ", ".join(f"{escape(name)} × {n:,}" for name, n in report["unknown_private_use"].items())
    articles = report["articles"]
    return (
        f"<p>Private-use characters that no map knows: {unknown or 'none'}.</p>"
        f"<p>Replacement characters (U+FFFD), kept: {report['replacement_characters']:,}.</p>"
        f"<p>Articles that look Simplified: {articles['simplified']:,}; converted: {articles['converted']:,}.</p>"
    )


def _table(title: str, values: Iterable[tuple[str, Any]]) -> str:
    rows = "".join(
        f"<tr><td>{escape(str(name))}</td><td>{escape(str(value))}</td></tr>" for name, value in values
    )
    return f"<h2>{escape(title)}</h2><div class=card><table>{rows}</table></div>" if rows else ""


def _words(name: str) -> str:
    return name.replace("_", " ")


def _counted(number: int, name: str) -> str:
    return f"{number:,} {name}" if number == 1 else f"{number:,} {name}s"
