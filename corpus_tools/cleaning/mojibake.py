"""UTF-8 that was read as Latin-1 or Windows-1252 (TÃ¢i-gÃ­): found, and as an optional rule repaired by `ftfy`."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from corpus_tools.cleaning.rules import LINE_BREAK, SEPARATOR, Log
from corpus_tools.errors import optional_import

# A byte of UTF-8 that begins a character, and one that goes on with it, as either encoding shows them.
_BEGINS = "[Â-ô]"
_GOES_ON = "[\x80-\xbfŒœŠšŸŽžƒˆ˜–-›€™]"
PAIR = re.compile(f"{_BEGINS}{_GOES_ON}")
_BREAKS = ("\n", SEPARATOR, LINE_BREAK)
# What an encoding of single bytes could have shown: no Han, no line break.
_RUN = re.compile("[^\n\u2e80-\U0010ffff]+")


@cache
def library() -> Any:
    """ftfy.

    Raises:
        InputError: It is not installed.
    """
    with optional_import("ftfy", "mojibake", "the rule mojibake"):
        import ftfy
    return ftfy


def repair(text: str, log: Log) -> str:
    """UTF-8 that was read as another encoding is read anew, unless that would make no better text.

    >>> repair("阮講TÃ¢i-gÃ\\xad\\nkiÃ¢â\\x81¿, sÄ«\\nÂng--ê Ê”", [])
    '阮講Tâi-gí\\nkiâⁿ, sī\\nÂng--ê Ê”'
    """

    def new(run: re.Match[str]) -> str:
        if not PAIR.search(run[0]):
            return run[0]
        repaired: str = library().fix_encoding(run[0])
        if repaired == run[0] or any(mark in repaired for mark in _BREAKS):
            return run[0]
        log.extend(_changed_words(run[0], repaired, run.start()))
        return repaired

    return _RUN.sub(new, text)


def _changed_words(old: str, new: str, at: int) -> Log:
    """The words of a run, which begins at a place, that are others now; the whole run if their number is."""
    olds, news = old.split(" "), new.split(" ")
    if len(olds) != len(news):
        return [(at, [old])]
    changed: Log = []
    for before, after in zip(olds, news, strict=True):
        if before != after:
            changed.append((at, [before]))
        at += len(before) + 1
    return changed
