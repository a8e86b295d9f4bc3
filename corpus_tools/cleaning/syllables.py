"""Taigi syllables in Latin letters: Tâi-lô and POJ, with diacritics or tone digits."""

from __future__ import annotations

import re
import unicodedata

_INITIAL = "(?:tsh|chh|ph|th|kh|ng|ts|ch|p|m|b|t|n|l|k|g|h|s|j)"
_VOWELS = "(?:iau|oai|uai|io+|ia|iu|ai|au|oa|oe|ua|ue|ui|ek|eng|er|ir|oo|a|e|i|o|u)"
_FINAL = "(?:nnh|nn|ng|[mnptkh])"
_SYLLABLE = re.compile(rf"(?:{_INITIAL}?{_VOWELS}{_FINAL}?|(?:{_INITIAL}?(?:ng|m)h?))[1-9]?")
# kiaN2 is nasal, as its capital among small letters says; KIAN2 is not.
_NASAL_CAPITAL = re.compile(r"(?<![A-Z])N(?=[0-9]|$)")
_NASAL = str.maketrans({"ⁿ": "nn", "ᴺ": "nn", "\u0358": "o"})


def is_syllable(word: str) -> bool:
    """Whether a word is one Taigi syllable, with or without its tone.

    >>> [is_syllable(word) for word in ("Tâi", "lâm", "kiaN2", "KIANN2", "hñg", "o͘h", "goeh8", "kh", "the cat", "str")]
    [True, True, True, True, True, True, True, False, False, False]
    """
    plain = unicodedata.normalize("NFD", _NASAL_CAPITAL.sub("nn", word).translate(_NASAL)).lower()
    letters = "".join(c for c in plain if not unicodedata.combining(c))
    return _SYLLABLE.fullmatch(letters) is not None
