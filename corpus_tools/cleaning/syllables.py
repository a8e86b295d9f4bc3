"""Taigi syllables in Latin letters: Tâi-lô and POJ, with diacritics or tone digits."""

from __future__ import annotations

import re
import unicodedata
from functools import cache

# Of a tone, as the last letter of its syllable; raised in linguists' texts.
TONE_DIGITS = "123456789¹²³⁴⁵⁶⁷⁸⁹"
PLAIN_DIGITS = str.maketrans("¹²³⁴⁵⁶⁷⁸⁹", "123456789")

_INITIAL = "(?:tsh|chh|ph|th|kh|ng|ts|ch|p|m|b|t|n|l|k|g|h|s|j)"
_VOWELS = "(?:iau|oai|uai|io+|ia|iu|ai|au|oa|oe|ua|ue|ui|ek|eng|er|ir|oo|a|e|i|o|u)"
_FINAL = "(?:nnh|nn|ng|[mnptkh])"
_SYLLABLE = re.compile(rf"(?:{_INITIAL}?{_VOWELS}{_FINAL}?|(?:{_INITIAL}?ng|h?m)h?)[{TONE_DIGITS}]?")
# What typists put for the dot of o͘: it belongs to the o only in a syllable that POJ can have.
MIDDLE_DOTS = "·‧・･•∙⋅˙\u0387"
_WORD_CHARACTER = rf"[A-Za-z0-9\u00c0-\u024f\u1e00-\u1eff\u0300-\u036f{MIDDLE_DOTS}]"
_O = "[oóòôōŏőǒõOÓÒÔŌŎŐǑÕ]"
# kiaN2 is nasal, as its capital among small letters says; KIAN2 is not.
_NASAL_CAPITAL = re.compile(r"(?<![A-Z])N(?=[0-9¹²³⁴-⁹]|$)")
_NASAL = str.maketrans({"ⁿ": "nn", "ᴺ": "nn", "\u0358": "o"})


def is_syllable(word: str) -> bool:
    """Whether a word is one Taigi syllable, with or without its tone.

    >>> [is_syllable(word) for word in ("Tâi", "lâm", "kiaN2", "KIANN2", "hñg", "o͘h", "goeh8", "kh", "km", "str")]
    [True, True, True, True, True, True, True, False, False, False]
    """
    plain = unicodedata.normalize("NFD", _NASAL_CAPITAL.sub("nn", word).translate(_NASAL)).lower()
    letters = "".join(c for c in plain if not unicodedata.combining(c))
    return _SYLLABLE.fullmatch(letters) is not None


def is_poj_dot(text: str, place: int) -> bool:
    """Whether a dot at a place of a text is that of a POJ o͘, see MIDDLE_DOTS.

    >>> is_poj_dot("kho·-lān", 3), is_poj_dot("só·", 2), is_poj_dot("Gonzalo·López", 7), is_poj_dot("馬克·吐溫", 2)
    (True, True, False, False)
    """
    before, after = _around_dot()
    return (
        before.search(text, max(0, place - 32), place) is not None
        and after.match(text, place + 1) is not None
    )


@cache
def _around_dot() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """What stands before and behind such a dot; compiled where there is one, for most corpora have none."""
    initial = "(?:chh|ch|tsh|ts|ph|p|th|t|kh|k|ng|[mbnlghsj])"
    final = "(?:h[ⁿᴺ]|hnn|nnh|nn|ng|[ⁿᴺhkptmn])"
    return (
        re.compile(rf"(?<!{_WORD_CHARACTER}){initial}?{_O}[\u0300-\u036f]*\Z", re.I),
        re.compile(rf"[\u0300-\u036f]*{final}?[\u0300-\u036f]*(?!{_WORD_CHARACTER})", re.I),
    )
