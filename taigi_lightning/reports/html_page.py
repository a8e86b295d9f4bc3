"""What several reports show, as the values that their templates write: origins, bars, questions with answers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from taigi_lightning.atomic_write import write_text
from taigi_lightning.reports.page import moment, render
from taigi_lightning.tasks.questions import Question

LONG_PASSAGE = 320  # characters; of a longer one only the beginning is shown until the reader asks


class Bar(NamedTuple):
    """A line with its share as a bar."""

    name: str
    share: float  # 0 to 1
    figure: str
    number: str = ""
    kind: str = ""  # `chosen` or `other` among options
    correct: bool = False


class QuestionCard(NamedTuple):
    """One question with its passage, its options and their probabilities, and whether the answer is correct.

    A long passage is folded: `start` is shown, `rest` on request.
    """

    id: str
    note: str
    start: str
    rest: str
    length: int
    question: str
    options: list[Bar]
    answer: int
    correct: int | None


def write_page(path: Path, template: str, **values: Any) -> Path:
    """Write a whole page, aside first and then renamed; returns the path."""
    write_text(path, render(template, **values))
    return path


def origins(named: Mapping[str, object], seconds: float | None = None, when: str = "made") -> dict[str, str]:
    """What a page says of where it comes from: model, adapter, data files as far as they are known, and the date.

    Args:
        named: what to name, by its name; nothing and None are left out.
        seconds: the moment that counts, in seconds since 1970; None means now.
        when: what happened then.
    """
    known = {name: str(value) for name, value in named.items() if value}
    return {**known, when: moment(seconds)}


def bar(name: str, share: float, figure: str, *, number: str = "", kind: str = "") -> Bar:
    """A bar as wide as a share; what is no number has none."""
    return Bar(name, min(1.0, max(0.0, share)) if math.isfinite(share) else 0.0, figure, number, kind)


def question_card(question: Question, shares: Sequence[float], answer: int, note: str = "") -> QuestionCard:
    """A question as its card shows it.

    Args:
        shares: the probabilities of the options.
        answer: the one that was given, counted from 1.
        note: said at its top.
    """
    text = question.passage
    shown = len(text) if len(text) <= LONG_PASSAGE else LONG_PASSAGE // 2
    options = [
        bar(option, share, f"{share:.1%}", number=str(place), kind="chosen" if place == answer else "other")
        ._replace(correct=place == question.answer)
        for place, (option, share) in enumerate(zip(question.options, shares, strict=True), start=1)
    ]  # fmt: skip
    return QuestionCard(
        question.id,
        note,
        text[:shown],
        text[shown:],
        len(text),
        question.question,
        options,
        answer,
        question.answer,
    )
