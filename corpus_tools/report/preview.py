"""What each rule would do to a file, as a coloured diff; nothing is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from difflib import SequenceMatcher
from pathlib import Path

from rich.console import Console
from rich.text import Text

from corpus_tools.cleaning.rules import Step, clean_steps
from corpus_tools.files.readers import read_rows
from corpus_tools.steps.merge_rows import group_rows, merge_rows

_CONTEXT = 12


def line_diff(before: str, after: str) -> Text:
    """One line's change: removed red, added green, unchanged stretches shortened to their edges."""
    diff = Text()
    for tag, a, b, c, d in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if tag == "equal":
            same = before[a:b]
            diff.append(same if len(same) <= 2 * _CONTEXT else f"{same[:_CONTEXT]}…{same[-_CONTEXT:]}", "dim")
        else:
            diff.append(_visible(before[a:b]), "white on red")
            diff.append(_visible(after[c:d]), "black on green")
    return diff


def _visible(text: str) -> str:
    return "".join(
        c if c.isprintable() and not "\ue000" <= c <= "\uf8ff" else f"<U+{ord(c):04X}>" for c in text
    )


def _changed_lines(step: Step) -> Iterator[tuple[str, str]]:
    for before, after in zip(step.before.split("\n"), step.after.split("\n"), strict=True):
        if before != after:
            yield before, after


def preview_file(path: Path, fields: Mapping[str, str], limit: int, console: Console) -> None:
    """Print, for each article and rule, up to `limit` changed lines, and the counts of all."""
    rows = read_rows(path, fields)
    counts: Counter[str] = Counter()
    for group in group_rows(rows):
        first = rows[group[0]]
        texts, numbers = [rows[i].text for i in group], [i + 1 for i in group]
        article = merge_rows(texts, numbers, first.title, first.author, path.name)
        for step in clean_steps(article.text):
            for before, after in _changed_lines(step):
                counts[step.rule] += 1
                if counts[step.rule] <= limit:
                    parts = (
                        (f"{step.rule} ", "bold cyan"),
                        line_diff(before, after),
                        (f"  {article.title}", "dim"),
                    )
                    # Chinese has no spaces to wrap at: the terminal breaks the lines.
                    console.print(Text.assemble(*parts), soft_wrap=True)
    console.print("lines changed: " + (", ".join(f"{r} {n:,}" for r, n in counts.most_common()) or "none"))
