"""Changed lines as a coloured diff."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from difflib import SequenceMatcher

from rich.console import Console
from rich.text import Text

from corpus_tools.errors import printable

_CONTEXT = 12


def line_diff(before: str, after: str) -> Text:
    """One line's change: removed red, added green, unchanged text shortened to their edges."""
    diff = Text()
    for tag, a, b, c, d in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if tag == "equal":
            same = before[a:b]
            if len(same) > 2 * _CONTEXT:
                same = f"{same[:_CONTEXT]}…{same[-_CONTEXT:]}"
            diff.append(printable(same), "dim")
        else:
            diff.append(_visible(before[a:b]), "white on red")
            diff.append(_visible(after[c:d]), "black on green")
    return diff


def _visible(text: str) -> str:
    return "".join(
        c if c.isprintable() and not "\ue000" <= c <= "\uf8ff" else f"<U+{ord(c):04X}>" for c in text
    )


def show_changes(changes: Iterable[tuple[str, str, str, str]], limit: int, console: Console) -> None:
    """Print (rule, title, line before, line after), up to `limit` of each rule, and the counts of all."""
    counts: Counter[str] = Counter()
    for rule, title, before, after in changes:
        counts[rule] += 1
        if counts[rule] <= limit:
            parts = ((f"{rule} ", "bold cyan"), line_diff(before, after), (f"  {printable(title)}", "dim"))
            # Chinese has no spaces to wrap at: the terminal breaks the lines.
            console.print(Text.assemble(*parts), soft_wrap=True)
    console.print("lines changed: " + (", ".join(f"{r} {n:,}" for r, n in counts.most_common()) or "none"))
