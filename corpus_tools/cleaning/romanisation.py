"""Romanised Taigi from one orthography into another, word by word, by the library `kesi`."""

from __future__ import annotations

import re
from functools import cache, lru_cache
from typing import Any, Literal

from corpus_tools.cleaning.syllables import PLAIN_DIGITS, TONE_DIGITS, is_syllable
from corpus_tools.errors import optional_import

Orthography = Literal["tailo", "poj"]
_LETTER = r"[A-Za-z\u00c0-\u024f\u1e00-\u1eff\u207f\u1d3a\u0300-\u036f]"
_SYLLABLE = f"{_LETTER}+[{TONE_DIGITS}]?"
# Not A4, B5 and the like.
WORD = re.compile(rf"(?<![0-9_\-])(?![A-Z][0-9](?!-)){_SYLLABLE}(?:--?{_SYLLABLE})*(?![0-9_])")


@cache
def library() -> Any:
    """kesi.

    Raises:
        InputError: It is not installed.
    """
    with optional_import("kesi", "romanisation", "converting romanisation"):
        import kesi
    return kesi


@lru_cache(65536)
def converted(word: str, orthography: Orthography) -> str:
    """A word with its tones as diacritics, in Tâi-lô or POJ; what is no Taigi word stays.

    >>> converted("Tai5-lam5", "tailo"), converted("chia̍h-pn̄g", "tailo"), converted("tsia̍h", "poj")
    ('Tâi-lâm', 'tsia̍h-pn̄g', 'chia̍h')
    >>> converted("street", "tailo"), converted("Tai⁵-oan⁵", "tailo"), WORD.findall("A4 choa2")
    ('street', 'Tâi-uân', ['choa2'])
    """
    if not all(map(is_syllable, filter(None, word.split("-")))):
        return word
    of_kesi = library().Ku(word.translate(PLAIN_DIGITS))
    return str((of_kesi.POJ() if orthography == "poj" else of_kesi.KIP()).hanlo)
