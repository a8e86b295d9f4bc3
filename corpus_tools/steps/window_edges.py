"""What stands between two rows that are windows of one text: nothing, a space or a line break.

A window may break a sentence anywhere: inside an address, a number, an abbreviation or a caption. Such a token must be
whole before any rule looks at it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from string import ascii_letters, digits
from typing import Literal

from corpus_tools.cleaning.numbering import CLOSERS, SENTENCE_ENDS, ends_sentence, letter_at
from corpus_tools.cleaning.syllables import TONE_DIGITS, is_syllable

COMPLETE = frozenset("。！？…")  # behind these a sentence has ended; behind others it may have
MAY_END = COMPLETE | frozenset(CLOSERS + SENTENCE_ENDS + ". ")
CONTINUES = frozenset(CLOSERS + SENTENCE_ENDS)
Spaces = Literal["unknown", "kept", "lost", "stripped"]
_HYPHENS = frozenset("-/–—\n ")  # which no space stands beside, or one that is still there
FIRST_WIDE = "\u2e80"  # Han, Kana and full-width forms; romanisation and numbers lie before

_ADDRESS_CHARACTERS = frozenset(ascii_letters + digits + "-._~:/?#[]@!$&'()*+,;=%")
_IN_ADDRESS = rf"[{re.escape(''.join(sorted(_ADDRESS_CHARACTERS)))}]"
_ADDRESS_AT_END = re.compile(
    rf"(?:[hH][tT]{{2}}[pP][sS]?://|[wW]{{3}}\.){_IN_ADDRESS}*\Z|[\w.+-]+@(?P<host>[A-Za-z0-9.\-]+)\Z"
)
_WHOLE_HOST = re.compile(
    r"(?:https?://)?[\w-]+(?:\.[\w-]+)*\.(?:[a-z]{2}|com|org|net|edu|gov|idv|info)\.?", re.I
)
_OF_ADDRESS = re.compile(
    rf"(?:[A-Za-z0-9\-_~]+[./?#&=%_:]{_IN_ADDRESS}+"
    r"|(?:com|org|net|edu|gov|tw|html?|php|aspx?|pdf|docx?|xlsx?|jpe?g|png|gif|mp[34])(?![A-Za-z]))"
)
_NO_LETTER = r"(?<![A-Za-z\u00c0-\u024f\u1e00-\u1eff])"  # before an abbreviation: Han may
_BEFORE_NUMBER = re.compile(
    rf"{_NO_LETTER}(?:nos?|vol|figs?|pp?|ch|chap|sec|art|ed|ver|tel|ext|op)\.\Z", re.I
)
_INITIAL_AT_END = re.compile(rf"{_NO_LETTER}(?:[A-Za-z]|Ph)\.\Z")
_INITIAL = re.compile(r"[A-Za-z]\.")
# Rows are joined before they are composed, and o͘ and m̄ never are: a letter may have marks behind it.
_MARKS = "\u0300-\u036f"
_LAST_WORD, FIRST_WORD = re.compile(rf"[\w{_MARKS}]+\Z"), re.compile(rf"[\w{_MARKS}]+")
_LONGEST_WORD = 40  # of those that matter here
_TONE_AT_END = re.compile(rf"(?P<syllable>(?:[^\W\d_]|[{_MARKS}])+)[{TONE_DIGITS}]{{1,2}}\Z")


def breaks_token(previous: str, text: str) -> bool:
    """Whether an address, a decimal, a numbered caption or an abbreviation with its number goes on in the next window.

    >>> breaks_token("表3.", "1：台語文化營"), breaks_token("看 http://www.", "ris.example.tw/ch4/st20.xls 嘛有")
    (True, True)
    >>> breaks_token("NO.", "84"), breaks_token("看 https://a.tw/b.", "Lí hó"), breaks_token("lán lâi khì.", "I bô")
    (True, False, False)
    """
    last, first = previous[-1], text[0]
    if last == "." and first.isdigit():
        behind_number = previous[-2:-1].isdigit() and not _ends_with_tone(previous[:-1])
        return behind_number or _BEFORE_NUMBER.search(previous) is not None
    if first not in _ADDRESS_CHARACTERS or not (
        "://" in previous or "@" in previous or "www." in previous.lower()
    ):
        return False
    address = _ADDRESS_AT_END.search(previous[-2000:])
    if address is None:
        return False
    if last not in ".?!,;":
        return first not in CONTINUES
    host_goes_on = last == "." and _WHOLE_HOST.match(address["host"] or address[0]) is None
    return host_goes_on or _OF_ADDRESS.match(text) is not None


def between(previous: str, text: str, spaces: Spaces = "unknown", known: frozenset[str] = frozenset()) -> str:
    """What to put between two windows, neither empty; `spaces`: what became of those between words. Where they were
    stripped from windows that may also cut words, `known` words of the text tell which is so.

    >>> between("看表3.", "1：文化營"), between("Goa2 khi3 Tai5-lam5.", "Li2 mai3"), between("Lí hó.", "I bô.")
    ('', ' ', '\\n')
    """
    if previous[-1] < FIRST_WIDE and breaks_token(previous, text):
        return ""
    if starts_paragraph(previous, text):
        return "\n"
    if previous[-1] >= FIRST_WIDE:
        return ""
    if spaces == "lost" and text[0] < FIRST_WIDE:
        return "" if previous[-1] in _HYPHENS or text[0] in _HYPHENS or text[0] in CONTINUES else " "
    apart = _are_known(previous, text, known) if known else None
    if apart is None:
        apart = spaces != "kept" and _parts_words(previous, text)
    return " " if apart else ""


def _are_known(previous: str, text: str, known: frozenset[str]) -> bool | None:
    """Whether the words where two windows meet are two known ones, rather than the parts of one; None if neither."""
    last, first = last_word(previous), FIRST_WORD.match(text)
    if not last or first is None:
        return None
    if last + first[0] in known:
        return False
    return True if last in known and first[0] in known else None


def words_inside(texts: Iterable[str]) -> frozenset[str]:
    """The words of some windows that no edge may have cut.

    >>> sorted(words_inside(["gs of the isl", "ands are"]))
    ['of', 'the']
    """
    return frozenset().union(*(FIRST_WORD.findall(text)[1:-1] for text in texts))


def starts_paragraph(previous: str, text: str) -> bool:
    """Whether the window before ends a sentence, and the next one begins with no part of it."""
    if previous[-1] not in MAY_END or not ends_sentence(previous, len(previous)):
        return False
    first = text[0]
    stop = previous[-1] in ". "
    if stop and first < FIRST_WIDE and _tone_at_end(previous.rstrip(" ").removesuffix(".")):
        return False  # a stop behind a tone digit may be a number's: a weaker sign than one behind a letter
    if stop and _breaks_initials(previous, text):
        return False
    # A window may break between a sentence and its closing quote.
    return first not in CONTINUES and (first != " " or text.lstrip(" ")[:1] not in CONTINUES)


def _parts_words(previous: str, text: str) -> bool:
    """Whether two romanised words would be glued that were two before the text was parted into windows."""
    last, first = previous[-1], text[0]
    if first.isdigit():  # behind a tone digit a number begins: goeh8. | 9 tiam2
        return _ends_with_tone(previous.rstrip(".,;:!?"))
    if not first.isalpha() or first >= FIRST_WIDE:
        return False
    if last in ".,;:!?":
        before_mark = previous[letter_at(previous, len(previous) - 2)]
        return before_mark.isalnum() and before_mark < FIRST_WIDE and not _breaks_initials(previous, text)
    if _tone_at_end(previous):
        return True
    before, after = last_word(previous), FIRST_WORD.match(text)
    letter = previous[letter_at(previous, len(previous) - 1)]
    if after is None or not letter.isalpha() or letter >= FIRST_WIDE:
        return False
    # A window may also break a word: then its halves are no syllables, or make up a syllable together.
    return is_syllable(before) and is_syllable(after[0]) and not is_syllable(before + after[0])


def last_word(text: str) -> str:
    """The word that a text ends with, "" if it ends with none.

    >>> last_word("góa m̄"), last_word("góa,")
    ('m̄', '')
    """
    found = _LAST_WORD.search(text, max(0, len(text) - _LONGEST_WORD))
    return found[0] if found else ""


def _ends_with_tone(text: str) -> bool:
    """Whether the last word of a text is a syllable with its tone digit, or two as in Hakka.

    >>> _ends_with_tone("8 liap8"), _ends_with_tone("ngai11"), _ends_with_tone("Fig3"), _ends_with_tone("3.8")
    (True, True, False, False)
    """
    found = _tone_at_end(text)
    return found is not None and is_syllable(found["syllable"])


def _tone_at_end(text: str) -> re.Match[str] | None:
    return _TONE_AT_END.search(text, max(0, len(text) - _LONGEST_WORD)) if text[-1:] in TONE_DIGITS else None


def _breaks_initials(previous: str, text: str) -> bool:
    """Whether letters with stops go on: U. | S. | A., Ph. | D., e. | g."""
    return _INITIAL_AT_END.search(previous) is not None and _INITIAL.match(text) is not None
