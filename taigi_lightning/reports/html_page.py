"""The page that reports are written on: one file, no scripts, light or dark as the reader's screen is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from taigi_lightning.atomic_write import write_text
from taigi_lightning.reports.svg_charts import Series
from taigi_lightning.tasks.questions import Question

LONG_PASSAGE = 320  # characters; of a longer one only the beginning is shown until the reader asks

STYLE = """\
:root{color-scheme:light dark;--back:#f6f5f1;--card:#fff;--text:#1d2125;--soft:#5f666e;--rule:#e3e1da;
--main:#0b6e63;--other:#c2410c;--raw:#0b6e6360;--track:#eceae3;--good:#15803d;--bad:#b91c1c}
@media(prefers-color-scheme:dark){:root{--back:#14171a;--card:#1d2226;--text:#e8e6e1;--soft:#9aa3ab;--rule:#323a41;
--main:#4fd1bd;--other:#fb923c;--raw:#4fd1bd60;--track:#2a3137;--good:#4ade80;--bad:#f87171}}
*{box-sizing:border-box}
body{margin:0;background:var(--back);color:var(--text);line-height:1.6;-webkit-text-size-adjust:100%;
font-family:system-ui,-apple-system,"Segoe UI","Noto Sans","PingFang TC","Microsoft JhengHei","Noto Sans TC",
"Noto Sans CJK TC","MingLiU-ExtB","HanaMinB",sans-serif}
main{max-width:66rem;margin:0 auto;padding:1.25rem 1rem 3rem}
h1{font-size:1.5rem;line-height:1.25;margin:.25rem 0}h2{font-size:1.15rem;margin:2.2rem 0 .75rem}
h3{font-size:.95rem;margin:0 0 .5rem}h3 small{font-weight:400;margin-left:.3rem}p{margin:.4rem 0}
.lead,.none,small{color:var(--soft)}.lead{overflow-wrap:anywhere;margin:0 0 .9rem}
.tiles{display:grid;gap:.6rem;grid-template-columns:repeat(auto-fit,minmax(8.5rem,1fr))}
.charts,.cards{display:grid;gap:.8rem;grid-template-columns:repeat(auto-fit,minmax(min(100%,24rem),1fr))}
.card,.tile{background:var(--card);border:1px solid var(--rule);border-radius:.7rem;padding:.8rem .9rem;min-width:0}
.tile b{display:block;font-size:1.35rem;line-height:1.3;font-variant-numeric:tabular-nums}
.tile span{color:var(--soft);font-size:.85rem;line-height:1.3;display:block}
svg{display:block;width:100%;height:auto}svg text{font-size:12px;fill:var(--soft);font-variant-numeric:tabular-nums}
@media(max-width:30rem){svg text{font-size:14px}}
.grid{stroke:var(--rule);fill:none}.mark{stroke:var(--soft);stroke-dasharray:4 4;fill:none}
.line{fill:none;stroke-width:2;stroke-linejoin:round;stroke:var(--main)}
.line.raw{stroke:var(--raw);stroke-width:1}.line.other{stroke:var(--other)}
circle.main,.bar{fill:var(--main)}circle.raw{fill:var(--raw)}circle.other{fill:var(--other)}
.key{float:right;font-weight:400;font-size:.8rem;color:var(--soft)}.key span{white-space:nowrap}
.key i{display:inline-block;width:.9em;height:.2em;
margin:0 .3em .25em .7em;vertical-align:middle;border-radius:1px}
table{border-collapse:collapse;width:100%;font-size:.9rem}th{text-align:left;font-weight:500;color:var(--soft);
white-space:nowrap;padding-right:1rem;vertical-align:top;width:1%}td{overflow-wrap:anywhere}
th,td{border-top:1px solid var(--rule);
padding-top:.35rem;padding-bottom:.35rem}tr:first-child>*{border-top:0}
pre{overflow-x:auto;font-size:.8rem;line-height:1.45;margin:.5rem 0 0}summary{cursor:pointer;padding:.25rem 0}
.passage{white-space:pre-wrap;overflow-wrap:anywhere;font-size:1rem;line-height:1.8;margin:.4rem 0 .7rem}
.passage summary{list-style:none;display:inline;padding:0}.passage summary::-webkit-details-marker{display:none}
.more{color:var(--main);white-space:nowrap}details[open] .more{display:none}
.heat{margin:0}.heat span{background:color-mix(in srgb,var(--other) calc(var(--s)*.55),transparent)}
.ask{font-weight:600;margin:.2rem 0 .5rem}.option{display:grid;grid-template-columns:1.3rem 1fr 4.2rem;gap:0 .4rem;
align-items:baseline;margin:.45rem 0;overflow-wrap:anywhere}
.option em{font-style:normal;text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums;
color:var(--soft)}.track{grid-column:2/4;height:.45rem;border-radius:.3rem;background:var(--track);overflow:hidden}
.track i{display:block;height:100%;border-radius:.3rem;background:var(--main)}.other .track i{background:var(--soft)}
.chosen{font-weight:600}.right{color:var(--good)}.wrong{color:var(--bad)}.verdict{font-weight:600}
.head{display:flex;flex-wrap:wrap;gap:.2rem .8rem;justify-content:space-between;color:var(--soft);font-size:.85rem;
overflow-wrap:anywhere}
"""


def tiles(figures: Mapping[str, str]) -> str:
    """Names and values, a small card each."""
    inside = "".join(
        f"<div class=tile><b>{escape(value)}</b><span>{escape(name)}</span></div>"
        for name, value in figures.items()
    )
    return f"<div class=tiles>{inside}</div>"


def table(rows: Sequence[tuple[str, str]]) -> str:
    """Names and values, a line each."""
    lines = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in rows)
    return f"<table>{lines}</table>"


def write_page(path: Path, title: str, body: Sequence[str]) -> Path:
    """Write a whole page around its parts, aside first and then renamed; returns the path."""
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><main>\n"
        + "\n".join(body)
        + "\n</main></body></html>\n"
    )
    write_text(path, page)
    return path


def bar(number: str, text: str, share: float, figure: str, *, chosen: bool | None = None) -> str:
    """A line with its share as a bar; among options, `chosen` is the answer that was given."""
    width = 100 * min(1.0, max(0.0, share)) if math.isfinite(share) else 0.0
    kind = {True: " chosen", False: " other", None: ""}[chosen]
    return (
        f'<div class="option{kind}"><span>{number}</span><span>{text}</span>'
        f'<em>{figure}</em><div class=track><i style="width:{width:.1f}%"></i></div></div>'
    )


def chart(title: str, drawing: str, lines: Sequence[Series] = (), note: str = "") -> str:
    """A card with a drawing, a key where it has several lines, and a note in small print."""
    key = "".join(
        f'<span><i style="background:var(--{line.style})"></i>{escape(line.name)}</span> ' for line in lines
    )
    key = f"<span class=key>{key}</span>" if len(lines) > 1 else ""
    small = f"<small>{escape(note)}</small>" if note else ""
    return f"<section class=card><h3>{escape(title)} {small}{key}</h3>{drawing}</section>"


def question_card(question: Question, shares: Sequence[float], answer: int, note: str = "") -> str:
    """One question with its passage, its options and their probabilities, and whether the answer is right.

    Args:
        shares: the probabilities of options 1-4.
        answer: the one that was given, 1-4.
        note: said at its top.
    """
    verdict = ""
    if question.answer is not None:
        right = question.answer == answer
        word = "right" if right else f"wrong, right is {question.answer}"
        verdict = f'<span class="verdict {"right" if right else "wrong"}">{word}</span>'
    options = []
    for place, (text, share) in enumerate(zip(question.options, shares, strict=True), start=1):
        mark = ' <span class="right">✓</span>' if place == question.answer else ""
        options.append(bar(str(place), escape(text) + mark, share, f"{share:.1%}", chosen=place == answer))
    return (
        f'<article class="card sample"><div class=head><span>{escape(question.id)}</span>'
        f"<span>{escape(note)}</span>{verdict}</div>"
        f'<div lang="nan-Hant-TW">{_passage(question.passage)}'
        f"<p class=ask>{escape(question.question)}</p>{''.join(options)}</div></article>"
    )


def _passage(text: str) -> str:
    if len(text) <= LONG_PASSAGE:
        return f"<p class=passage>{escape(text)}</p>"
    start, rest = text[: LONG_PASSAGE // 2], text[LONG_PASSAGE // 2 :]
    return (
        f"<details class=passage><summary>{escape(start)}<span class=more>… {len(text):,} characters</span></summary>"
        f"{escape(rest)}</details>"
    )
