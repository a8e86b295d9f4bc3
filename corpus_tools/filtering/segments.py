"""Cleaned texts into the pieces that become documents, or are too short or too little Taigi to be any."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from corpus_tools.cleaning.language import Found, measure_spans
from corpus_tools.filtering.splitting import Characters, Syllables, split_spans


class Limits(NamedTuple):
    """What a document must have: so many characters, or syllables and Han, and at least this Taigi score."""

    min_chars: int
    max_chars: int
    min_taigi_score: float
    lengths: Literal["characters", "syllables"] = "characters"


class Piece(NamedTuple):
    """Characters `start` to `end` of a text: in UTF-8 `size` bytes from byte `at` on.

    A document, unless there is a `reason` against it. `script` is the place in `language.SCRIPTS`.
    """

    start: int
    end: int
    at: int
    size: int
    score: float
    reason: str
    script: int = 0


def cut_texts(texts: Sequence[str], limits: Limits) -> Iterator[tuple[list[Piece], Found]]:
    """The pieces of each text, and what is in it.

    >>> ((pieces, _),) = cut_texts([" 阮佇遮。"], Limits(9, 99, 0.0))
    >>> pieces
    [Piece(start=1, end=5, at=1, size=12, score=1.0, reason='too_short', script=0)]
    """
    rulers = [Syllables(text) if limits.lengths == "syllables" else Characters() for text in texts]
    spans = [
        list(split_spans(text, limits.min_chars, limits.max_chars, ruler))
        for text, ruler in zip(texts, rulers, strict=True)
    ]
    scores, sizes, scripts, found = measure_spans(texts, spans)
    measured = zip(scores, sizes, scripts, strict=True)
    for of_text, ruler, found_here in zip(spans, rulers, found, strict=True):
        yield list(_pieces(of_text, measured, limits, ruler)), found_here


def _pieces(
    spans: Sequence[tuple[int, int]],
    measured: Iterator[tuple[float, int, int]],
    limits: Limits,
    ruler: Characters | Syllables,
) -> Iterator[Piece]:
    before = at = 0  # the end of the piece before, in characters and in bytes
    for start, end in spans:
        score, size, script = next(measured)
        at += start - before  # spaces and line breaks, a byte each
        reason = ""
        if ruler.between(start, end) < limits.min_chars:
            reason = "too_short"
        elif score < limits.min_taigi_score:
            reason = "not_taigi"
        yield Piece(start, end, at, size, score, reason, script)
        before, at = end, at + size
