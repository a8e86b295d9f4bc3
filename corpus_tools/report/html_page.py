"""report.json as a page that people read: one file without scripts, for phone and desk, light and dark.

It has no date: the same files and options give the same bytes.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any, NamedTuple

from markupsafe import Markup

from corpus_tools.report.page import Box, Chart, Drawing, Text, as_csv, printable, render
from corpus_tools.report.sources import HEADER, SHOWN, source_rows

LENGTH_STEP = 128  # characters in a bin of the lengths
SCORE_STEP = 0.05
WIDTH, HEIGHT, LEFT, RIGHT, BOTTOM, TOP = 400, 190, 48, 12, 40, 18
NAMED = 4  # input files that the page names


class Bar(NamedTuple):
    """A line with its share, 0 to 1, as a bar."""

    name: str
    share: float
    figure: str


def render_page(report: Mapping[str, Any], inputs: Sequence[str] = ()) -> str:
    """The report of `corpus_report` as one HTML file that loads nothing else.

    Args:
        inputs: names of the files that were read.
    """
    lengths = {float(start): count for start, count in report["lengths"].items()}
    scores = {float(start): count for start, count in report["taigi_scores"].items()}
    overlaps = [
        (f"question {hit['question']}", f"{hit['source']} row {hit['row']}, {hit['title']}: {hit['shared']}")
        for hit in report["overlaps"]
    ]
    longest = max([report["options"].get("max_chars") or 0, *lengths])
    rules = [(_words(name), rule) for name, rule in report["rules"].items()]
    counted = [(name, rule["changes"], rule["characters_removed"]) for name, rule in rules]
    return render(
        "corpus.html",
        title="Corpus report",
        heading="",
        lead="",
        facts=_facts(inputs),
        figures=_figures(report),
        characters_read=f"{report['characters']['read']:,}",
        characters=_characters(report["characters"]),
        rows_read=f"{report['rows']['read']:,}",
        rows=_rows(report["rows"]),
        charts=[
            columns("Documents by length", lengths, LENGTH_STEP, longest, "characters"),
            columns("Documents by Taigi score", scores, SCORE_STEP, 1.0, "Taigi score", "1 is all Taigi"),
        ],
        sources=_sources(report.get("sources", [])),
        rules=[_rule(name, rule) for name, rule in rules],
        rules_data=as_csv("rules.csv", ["rule", "changes", "characters removed"], counted),
        odd_characters=_odd_characters(report),
        tables={
            "Overlaps with the evaluation questions": overlaps,
            "Articles garbled by a font of their own": list(
                map(_garbled, report.get("garbled_articles", []))
            ),
            "Skipped files": list(report["skipped_files"].items()),
            "Files not read": [(name, "no known format") for name in report.get("passed_over_files", [])],
            "Options": list(report["options"].items()),
        },
        marked=marked,
    )


def _garbled(article: Mapping[str, str]) -> tuple[str, str]:
    seems = (
        "seems to be UTF-8 read as another encoding, which the optional rule mojibake repairs"
        if article.get("rule") == "mojibake"
        else "private-use characters, U+FFFD or Latin-1 of an old font"
    )
    return f"{article['source']}, {article['title']}", f"{article['share']} {seems}"


def _sources(sources: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    rows = source_rows(sources)
    if not rows:
        return None
    plain = [[cell.replace(",", "") if cell[:1].isdigit() else cell for cell in row] for row in rows]
    return {
        "count": _counted(len(rows), "file"),
        "header": HEADER,
        "rows": list(zip(rows[:SHOWN], _orders(plain[:SHOWN]), strict=True)),
        "data": as_csv("sources.csv", HEADER, plain),
    }


def _orders(rows: Sequence[Sequence[str]]) -> list[str]:
    """For each row of a table, as properties of CSS, its place by each column: names by letter, figures greatest first.

    >>> _orders([["b", "7%"], ["a", "12%"]])
    ['--c0:1;--c1:1', '--c0:0;--c1:0']
    """
    places: list[list[int]] = []
    for cells in zip(*rows, strict=True):
        figures = [cell.rstrip("%") for cell in cells]
        keys = [-float(figure) for figure in figures] if _are_figures(figures) else list(cells)
        order = sorted(range(len(rows)), key=keys.__getitem__)
        places.append([order.index(row) for row in range(len(rows))])
    return [";".join(f"--c{c}:{of[row]}" for c, of in enumerate(places)) for row in range(len(rows))]


def _are_figures(cells: Sequence[str]) -> bool:
    return all(cell.replace(".", "", 1).isdecimal() for cell in cells)


def _facts(inputs: Sequence[str]) -> dict[str, str]:
    if not inputs:
        return {}
    more = f" and {len(inputs) - NAMED:,} more, all in manifest.json" if len(inputs) > NAMED else ""
    return {"data": f"{_counted(len(inputs), 'file')}: {', '.join(inputs[:NAMED])}{more}"}


def _figures(report: Mapping[str, Any]) -> dict[str, str]:
    characters, documents = report["characters"], report["documents"]
    return {
        "articles": f"{report['articles']['read']:,}",
        "documents": f"{documents['total']:,}",
        "of them held out": f"{documents.get('validation', 0):,}",
        "characters kept": f"{characters['kept']:,}",
        "of the characters read": f"{characters['kept'] / max(1, characters['read']):.1%}",
    }


def _characters(characters: Mapping[str, Any]) -> list[Bar]:
    removed = sum(characters["removed_by_rule"].values())
    parts = {"kept": characters["kept"], "removed by rules": removed}
    parts |= {f"dropped: {_words(reason)}": count for reason, count in characters["dropped"].items()}
    return [_bar(name, count, characters["read"]) for name, count in parts.items()]


def _rows(rows: Mapping[str, Any]) -> list[Bar]:
    parts = {"kept": rows["kept"]}
    parts |= {f"dropped: {_words(reason)}": count for reason, count in rows["dropped"].items() if count}
    return [_bar(name, count, rows["read"]) for name, count in parts.items()]


def _bar(name: str, count: int, total: int) -> Bar:
    share = count / max(1, total)
    figure = f"{share:.1%}" if share >= 0.0005 or not count else "under 0.1%"
    return Bar(name, min(1.0, max(0.0, share)), f"{count:,} · {figure}")


def columns(
    title: str, counts: Mapping[float, int], step: float, end: float, x_name: str, note: str = ""
) -> Chart:
    """Counts by where their bin of width `step` begins, as columns over an axis from 0 to `end`."""
    if not counts:
        return Chart(title, None, None, note=note)
    bins = max(1, round(end / step), *(round(start / step) + 1 for start in counts))
    most, high = max(counts.values()), HEIGHT - BOTTOM - TOP
    wide = (WIDTH - LEFT - RIGHT) / bins
    levels = {count: HEIGHT - BOTTOM - count / most * high for count in (0, most)}
    texts = [Text(f"{LEFT - 6}", f"{y + 4:.1f}", f"{count:,}", "end") for count, y in levels.items()]
    for part in range(5):
        value = part / 4 * end
        anchor = "end" if part == 4 else "middle"  # the last would leave the picture
        text = f"{value:,.0f}" if step >= 1 else f"{value:.2g}"
        texts.append(Text(f"{LEFT + value / step * wide:.1f}", f"{HEIGHT - 22}", text, anchor))
    texts.append(Text(f"{WIDTH - RIGHT}", f"{HEIGHT - 5}", x_name, "end"))
    bars, strips, rows = [], [], []
    for start, count in counts.items():
        left, tall = LEFT + round(start / step) * wide, max(1.0, count / most * high)
        bars.append(
            Box(
                f"{left + 0.5:.1f}",
                f"{HEIGHT - BOTTOM - tall:.1f}",
                f"{max(1.0, wide - 1):.1f}",
                f"{tall:.1f}",
            )
        )
        words = f"{start:g} to {start + step:g} {x_name}: {_counted(count, 'document')}"
        strips.append(Box(f"{left:.1f}", f"{TOP}", f"{max(1.0, wide):.1f}", f"{high}", words))
        rows.append([f"{start:g}", f"{start + step:g}", count])
    drawing = Drawing(
        label=f"{title}: {x_name}",
        width=WIDTH,
        height=HEIGHT,
        grid=[f"M{LEFT} {y:.1f}H{WIDTH - RIGHT}" for y in levels.values()],
        texts=texts,
        bars=bars,
        strips=strips,
    )
    name = f"{_words(title).lower().replace(' ', '-')}.csv"
    return Chart(title, drawing, as_csv(name, ["from", "to", "documents"], rows), note=note)


def _rule(name: str, rule: Mapping[str, Any]) -> dict[str, Any]:
    spans = list(rule["stretches"].items())[:20]
    return {
        "name": name,
        "effect": f"{_counted(rule['changes'], 'change')}, "
        f"{_counted(rule['characters_removed'], 'character')} fewer",
        "frequent": ", ".join(f"{visible(text)} × {count:,}" for text, count in spans),
        "samples": rule["samples"],
    }


def marked(before: str, after: str) -> Markup:
    """One text as HTML in which what a rule took away and what it put there are marked, the rest escaped.

    >>> str(marked("講......", "講……"))
    '講<del>......</del><ins>……</ins>'
    """
    tags = {"gone": Markup("<del>{}</del>"), "new": Markup("<ins>{}</ins>"), "same": Markup("{}")}
    return Markup("").join(tags[kind].format(printable(text)) for kind, text in changes(before, after))


def changes(before: str, after: str) -> Iterator[tuple[str, str]]:
    """One text in pieces: ("gone", …) for what a rule took away, ("new", …) for what it put there, ("same", …).

    Both may be windows of a longer text, of which `after` goes on where `before` has ended: that is no change.

    >>> list(changes("看https://is.gd/x喔", "看喔好啊"))
    [('same', '看'), ('gone', 'https://is.gd/x'), ('same', '喔')]
    >>> list(changes("講......", "講……"))
    [('same', '講'), ('gone', '......'), ('new', '……')]
    """
    blocks = SequenceMatcher(None, before, after, autojunk=False).get_opcodes()
    for kind, start, end, new_start, new_end in blocks:
        if kind == "equal":
            yield "same", before[start:end]
            continue
        if end == len(before) and new_end - new_start > end - start:
            break
        if start < end:
            yield "gone", visible(before[start:end])
        if new_start < new_end:
            yield "new", visible(after[new_start:new_end])


def visible(text: str) -> str:
    """Text in which spaces, line breaks and characters without a shape of their own can be seen.

    >>> visible("a \\n"), visible("\\ue701"), visible("e\\u0301"), visible("é")
    ('a␣↵', '[U+E701]', 'e[U+0301]', 'é')
    """
    shapes = {" ": "␣", "\n": "↵", "\t": "⇥"}
    return "".join(
        shapes.get(character) or (f"[U+{ord(character):04X}]" if _shapeless(character) else character)
        for character in text
    )


def _shapeless(character: str) -> bool:
    """Whether nothing is drawn for a character, or what is drawn for another one."""
    return (
        unicodedata.category(character)[0] in "CZ"
        or unicodedata.combining(character) > 0
        or not unicodedata.is_normalized("NFC", character)
    )


def _odd_characters(report: Mapping[str, Any]) -> list[str]:
    unknown = ", ".join(f"{name} × {n:,}" for name, n in report["unknown_private_use"].items())
    articles = report["articles"]
    return [
        f"Private-use characters that no map knows: {unknown or 'none'}.",
        f"Replacement characters (U+FFFD), kept: {report['replacement_characters']:,}.",
        f"Articles that look Simplified: {articles['simplified']:,}; converted: {articles['converted']:,}.",
    ]


def _words(name: str) -> str:
    return name.replace("_", " ")


def _counted(number: int, name: str) -> str:
    return f"{number:,} {name}" if number == 1 else f"{number:,} {name}s"
