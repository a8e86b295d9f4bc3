"""Changed lines as a coloured diff."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from difflib import SequenceMatcher

from rich.console import Console
from rich.text import Text

from corpus_tools.errors import printable

_CONTEXT = 12
_SHOWN = 20  # changes of a line
_WINDOW = 600  # characters of a line that are compared at once
_MEETS = 8  # characters alike, behind which the next window may begin

Opcode = tuple[str, int, int, int, int]


def line_diff(before: str, after: str, marks: bool = False) -> Text:
    """One line's change: removed red, added green, or with marks around both; unchanged text shortened to its edges.

    >>> line_diff("好...", "好……", marks=True).plain
    '好[-...-]{+……+}'
    """
    diff = Text()
    shown = 0
    for tag, a, b, c, d in _opcodes(before, after):
        shown += tag != "equal"
        if shown > _SHOWN:
            return diff.append(" … and more", "dim")
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


def _opcodes(before: str, after: str) -> Iterator[Opcode]:
    """What `SequenceMatcher` finds, window by window: its time grows with the square of what it is given, and a line
    may have millions of characters.
    """
    a = c = 0
    while a < len(before) or c < len(after):
        same = _alike(before, a, after, c)
        if same:
            yield "equal", a, a + same, c, c + same
        a, c = a + same, c + same
        old, new = before[a : a + _WINDOW], after[c : c + _WINDOW]
        found = SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
        if a + len(old) < len(before) or c + len(new) < len(after):
            # The windows end at different places of the text: what is behind their last meeting says nothing.
            meets = [k for k, (tag, i, j, *_) in enumerate(found) if tag == "equal" and j - i >= _MEETS]
            found = found[: meets[-1]] if meets else found
        for tag, i, j, k, m in found:
            yield tag, a + i, a + j, c + k, c + m
        if found:
            a, c = a + found[-1][2], c + found[-1][4]


def _alike(before: str, a: int, after: str, c: int) -> int:
    """How many characters are alike from two places on."""
    size, step = 0, 1 << 16
    while step:
        piece = before[a + size : a + size + step]
        if len(piece) == step and piece == after[c + size : c + size + step]:
            size += step
        else:
            step //= 2
    return size


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
