"""Changed lines as a coloured diff."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from difflib import SequenceMatcher

from rich.console import Console
from rich.text import Text

from corpus_tools.errors import printable

_CONTEXT = 12


def line_diff(before: str, after: str, marks: bool = False) -> Text:
    """One line's change: removed red, added green, or with marks around both; unchanged text shortened to its edges.

    >>> line_diff("好...", "好……", marks=True).plain
    '好[-...-]{+……+}'
    """
    diff = Text()
    for tag, a, b, c, d in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if tag == "equal":
            same = before[a:b]
            if len(same) > 2 * _CONTEXT:
                same = f"{same[:_CONTEXT]}…{same[-_CONTEXT:]}"
            diff.append(printable(same), "dim")
        else:
            for text, style, mark in (
                (before[a:b], "white on red", "[-{}-]"),
                (after[c:d], "black on green", "{{+{}+}}"),
            ):
                if text:
                    diff.append(mark.format(_visible(text)) if marks else _visible(text), style)
    return diff


def _visible(text: str) -> str:
    return "".join(
        c if c.isprintable() and not "\ue000" <= c <= "\uf8ff" else f"<U+{ord(c):04X}>" for c in text
    )


def show_changes(changes: Iterable[tuple[str, str, str, str, int]], limit: int, console: Console) -> None:
    """Print (rule, title, line before, line after, changes in it), up to `limit` of each rule, and the counts of all.

    On a terminal what is old is red and what is new green; elsewhere it stands as [-old-] and {+new+}.
    """
    lines: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for rule, title, before, after, count in changes:
        lines[rule] += 1
        counts[rule] += count
        if lines[rule] <= limit:
            diff = line_diff(before, after, marks=not console.is_terminal)
            parts = ((f"{rule} ", "bold cyan"), diff, (f"  {printable(title)}", "dim"))
            # Chinese has no spaces to wrap at: the terminal breaks the lines.
            console.print(Text.assemble(*parts), soft_wrap=True)
    total = [
        f"{rule} {n:,} in {lines[rule]:,} line{'' if lines[rule] == 1 else 's'}"
        for rule, n in counts.most_common()
    ]
    console.print("changes: " + (", ".join(total) or "none"))
