"""Paragraph numbers: which line starts are numbering, judged by their neighbours."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

_DIGITS = r"[0-9]{1,3}|[０-９]{1,3}"
_HAN = "[一二三四五六七八九十百]{1,4}"
# After a number and its mark: no digit (2.25, 11:30, 07.04, 7、80) and no dots (1......).
_FORMS = (
    rf"[(（\[【〔] ?(?P<bracketed>{_DIGITS}|{_HAN}) ?[)）\]】〕]"
    rf"|(?P<digits>{_DIGITS})(?:[.．、:：](?![0-9０-９.．…:：])|[)）])"
    rf"|(?P<han>{_HAN})(?:[.．](?![.．…])|[、:：](?![0-9一二三四五六七八九十百])|[)）])"
    rf"|第(?P<chapter>[0-9]{{1,4}}|[一二三四五六七八九十百千〇零]{{1,5}})[章節回卷篇段](?:[ :：、]|(?=\n|\Z))"
    rf"|(?P<bare>{_DIGITS}) (?=\S)"
)
# What a number may begin with.
NUMBER_STARTS = frozenset("(（[【〔0123456789０１２３４５６７８９一二三四五六七八九十百第")
_NUMBER = re.compile(_FORMS)
_NUMBERED_LINE = re.compile(rf"\n(?=[{re.escape(''.join(sorted(NUMBER_STARTS)))}])(?:{_FORMS})")
_VALUES = {c: i for i, c in enumerate("〇一二三四五六七八九")} | {"零": 0}
_UNITS = {"十": 10, "百": 100, "千": 1000}

SENTENCE_ENDS = "。！？…!?"
CLOSERS = "」』”’）》〉】〕〗｝)]\"'"


class Number(NamedTuple):
    """A number at a line's start: characters `start` to `end` of the text are the number and its mark."""

    start: int
    end: int
    form: str
    value: int


def _value(numeral: str) -> int:
    if numeral.isdecimal():
        return int(numeral)
    total = digit = 0
    for character in numeral:
        if unit := _UNITS.get(character):
            total += (digit or 1) * unit
            digit = 0
        else:
            digit = _VALUES[character]
    return total + digit


def number_at(text: str, position: int) -> Number | None:
    """The number, with its mark and the spaces behind it, that begins at a position; None if none does."""
    match = _NUMBER.match(text, position)
    return None if match is None else _number_of(match, position)


def _number_of(match: re.Match[str], start: int) -> Number:
    kind = match.lastgroup or ""
    text, end = match.string, match.end()
    while text[end : end + 1] == " ":
        end += 1
    return Number(start, end, *_form_and_value(text[start : match.end()], kind, match[kind]))


@lru_cache(4096)
def _form_and_value(written: str, kind: str, numeral: str) -> tuple[str, int]:
    # The form is all but the value: brackets, mark and numeral system must agree for numbers to run on.
    form = written.replace(numeral, "9" if numeral.isdecimal() else "九", 1)
    return f"{kind} {form.strip()}", _value(numeral)


def candidates(text: str) -> Iterator[Number]:
    """Every line start that has the form of a number, in order."""
    first = number_at(text, 0)
    if first is not None:
        yield first
    for match in _NUMBERED_LINE.finditer(text):
        yield _number_of(match, match.start() + 1)


def ends_sentence(text: str, end: int) -> bool:
    """Whether text[:end] is complete: nothing, or a sentence with its closing quotes; spaces count as nothing.

    >>> ends_sentence("伊講：「好。」", 7), ends_sentence("2010.09.", 8), ends_sentence("lán lâi khì.", 12)
    (True, False, True)
    """
    i = end - 1
    while i >= 0 and text[i] == " ":
        i -= 1
    if i < 0 or text[i] == "\n":
        return True
    while i >= 0 and text[i] in CLOSERS:
        i -= 1
    if i < 0:
        return False
    if text[i] == ".":
        # A full stop ends a sentence after a word, not after a digit, an initial or a dot.
        return i > 1 and text[i - 1].isalpha() and not _is_initial(text, i - 1)
    return text[i] in SENTENCE_ENDS


def _is_initial(text: str, i: int) -> bool:
    return text[i].isascii() and text[i].isupper() and (i == 0 or not text[i - 1].isalpha())


def in_sequence(numbers: list[Number]) -> set[int]:
    """Which of some numbers, by their place in the list, run on from, or into, the nearest number of the same form.

    A bare `3 ` counts only in a run that begins at 0 or 1, or is three long: years and ages are bare too.
    """
    by_form: dict[str, list[int]] = {}
    for place, number in enumerate(numbers):
        by_form.setdefault(number.form, []).append(place)
    found: set[int] = set()
    for form, same in by_form.items():
        runs: list[list[int]] = []
        expected = -1
        for place in same:
            value = numbers[place].value
            if value == expected:
                runs[-1].append(place)
            else:
                runs.append([place])
            expected = value + 1
        for run in runs:
            bare = form.startswith("bare") and numbers[run[0]].value > 1
            if len(run) > 2 or (len(run) == 2 and not bare):
                found.update(run)
    return found


def find_numbering(text: str) -> list[Number]:
    """The numbers to remove: those that run in sequence, and those after a complete sentence.

    >>> [n.value for n in find_numbering("1. 春天\\n2. 熱天")]
    [1, 2]
    >>> find_numbering("7、80 冬前") or find_numbering("2.25，台南") or find_numbering("25 歲彼年")
    []
    """
    numbers = list(candidates(text))
    if not numbers:
        return []
    sequence = in_sequence(numbers)
    return [
        n
        for place, n in enumerate(numbers)
        if place in sequence or (not n.form.startswith("bare") and ends_sentence(text, max(0, n.start - 1)))
    ]
