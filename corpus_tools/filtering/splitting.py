"""Articles into documents of bounded length, cut where a reader would pause."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

import numpy as np

from corpus_tools.cleaning.numbering import CLOSERS, ends_sentence
from corpus_tools.cleaning.units import units_of

_ENDS = "。！？…"
_ROMANISED_END = re.compile(r"[.!?][" + re.escape(CLOSERS) + r"]* ")
# A weaker end, for a number with a stop may also begin a line of a list: hit ni5 si7 1947. I kong2
_NUMBER_END = re.compile(r"[0-9]\. (?=[A-ZÀ-ÞĀĒĪŌŪ])")
_PAUSES = "，、；："
_ROMANISED_PAUSE = re.compile("[,;:] ")
_EDGE = " \n"
_WORD_JOINERS = "-.,:'·"


def _last_end(text: str, low: int, high: int) -> int:
    """End of the last sentence that ends in text[low:high], with its closing quotes; `low` if none does."""
    best = low
    top = high
    while top > low:
        i = max(text.rfind(c, low, top) for c in _ENDS)
        if i < 0:
            break
        end = i + 1
        while end < len(text) and (text[end] in _ENDS or text[end] in CLOSERS):
            end += 1
        if end <= high:
            best = end
            break
        top = i
    for match in _ROMANISED_END.finditer(text, max(best, low), high):
        if match.end() <= high and ends_sentence(text, match.end()):
            best = match.end()
    return best


def _is_safe(text: str, cut: int) -> bool:
    """Whether a cut before text[cut] parts no combining sequence, `--`, number or romanised word."""
    before, after = text[cut - 1], text[cut]
    if unicodedata.category(after).startswith("M") or "\u200d" in (before, after):
        return False
    if before == after and after in "-—…":
        return False
    return not (_in_word(before) and _in_word(after))


def _in_word(character: str) -> bool:
    if character in _WORD_JOINERS:
        return True
    code = ord(character)
    return (character.isalnum() and code < 0x2E80) or unicodedata.category(character).startswith("M")


def _paragraph_end(text: str, low: int, high: int) -> int:
    """The last line break in text[low:high] behind a complete sentence; -1 if there is none."""
    at = text.rfind("\n", low, high)
    while at >= 0 and not ends_sentence(text, at):
        at = text.rfind("\n", low, at)
    return at


def _last(pattern: re.Pattern[str], text: str, low: int, high: int) -> int:
    """Where the last match in text[low:high] ends; 0 if there is none."""
    return max((match.end() for match in pattern.finditer(text, low, high)), default=0)


def _find_cut(text: str, low: int, high: int) -> int:
    """Where to end a piece, low < cut <= high: at a paragraph's or sentence's end, a line's, a pause, a space, or
    anywhere safe. Lines of a text file may break sentences, so a sentence's end comes first.
    """
    last_quarter = high - (high - low) // 4
    cut = _paragraph_end(text, last_quarter, high)
    if cut > low:
        return cut
    for start in (last_quarter, low):
        for cut in (_last_end(text, start, high), text.rfind("\n", start, high)):
            if cut > start:
                return cut
    pause = max(_last(_ROMANISED_PAUSE, text, low, high), 1 + max(text.rfind(c, low, high) for c in _PAUSES))
    for cut in (_last(_NUMBER_END, text, low, high), pause, 1 + text.rfind(" ", low, high)):
        if cut > low and _is_safe(text, cut):
            return cut
    for cut in range(high, low, -1):
        if _is_safe(text, cut):
            return cut
    return high


class Characters:
    """Lengths in characters, whatever they are."""

    def between(self, start: int, end: int) -> int:
        """The length of text[start:end]."""
        return end - start

    def ahead(self, start: int, length: int) -> int:
        """The last place that is no farther than `length` behind `start`."""
        return start + length

    def back(self, end: int, length: int) -> int:
        """The last place from which `length` is left before `end`."""
        return end - length


class Syllables:
    """Lengths in Han characters, digits and romanised syllables: what stands between them counts nothing."""

    def __init__(self, text: str) -> None:
        units = units_of(text)
        self._starts, self._ends, self._size = units.starts, units.ends, len(text)

    def between(self, start: int, end: int) -> int:
        """The length of text[start:end]."""
        return int(self._before(end) - self._before(start))

    def ahead(self, start: int, length: int) -> int:
        """The last place that is no farther than `length` behind `start`."""
        following = self._before(start) + length
        return int(self._starts[following]) if following < len(self._starts) else self._size

    def back(self, end: int, length: int) -> int:
        """The last place from which `length` is left before `end`."""
        return int(self._starts[max(0, self._before(end) - length)])

    def _before(self, place: int) -> int:
        """How many units have ended at a place."""
        return int(np.searchsorted(self._ends, place, side="right"))


_CHARACTERS = Characters()


def split_spans(
    text: str, min_chars: int, max_chars: int, lengths: Characters | Syllables = _CHARACTERS
) -> Iterator[tuple[int, int]]:
    """Spans (start, end) of the pieces of a text, edges without spaces and line breaks.

    Every piece has at most `max_chars` characters, or what else `lengths` counts. A text of `min_chars` or more loses
    nothing to the lower bound where the cuts allow it: the last cut leaves enough for the last piece.
    """
    start, end = 0, len(text)
    while start < end and text[start] in _EDGE:
        start += 1
    while end > start and text[end - 1] in _EDGE:
        end -= 1
    while lengths.between(start, end) > max_chars:
        low = min(lengths.ahead(start, min_chars), max(start + 1, lengths.ahead(start, max_chars - 1)))
        high = min(lengths.ahead(start, max_chars), max(lengths.back(end, min_chars), low + 1))
        cut = _find_cut(text, low - 1, high)
        stop = cut
        while stop > start and text[stop - 1] in _EDGE:
            stop -= 1
        yield start, stop
        start = cut
        while start < end and text[start] in _EDGE:
            start += 1
    if start < end:
        yield start, end


def split_text(text: str, min_chars: int = 100, max_chars: int = 2048) -> list[str]:
    """The pieces of a text; the last may be shorter than `min_chars` when the whole text is.

    >>> split_text("阮兜佇台南。「好！」伊講。後擺閣來。", min_chars=4, max_chars=12)
    ['阮兜佇台南。「好！」', '伊講。後擺閣來。']
    """
    return [text[start:end] for start, end in split_spans(text, min_chars, max_chars)]
