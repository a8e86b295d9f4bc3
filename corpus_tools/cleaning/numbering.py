"""Paragraph numbers: which line starts are numbering, judged by their neighbours."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import cache, lru_cache
from typing import NamedTuple

from corpus_tools.cleaning.syllables import TONE_DIGITS

_DIGITS = r"[0-9]{1,3}|[０-９]{1,3}"
# Not 二二八, a date, nor 一九八四, a year.
_HAN = "(?![一二三四五六七八九]{3})[一二三四五六七八九十百]{1,4}"
# After a number and its mark: no digit (2.25, 11:30, 07.04, 7、80) and no dots (1......).
_FORMS = (
    rf"[(（\[【〔] ?(?P<bracketed>{_DIGITS}|{_HAN}) ?[)）\]】〕]"
    rf"|(?P<digits>{_DIGITS})(?:(?: ?[.．、]|[:：])(?![0-9０-９.．…:：])|[)）])"
    rf"|(?P<han>{_HAN})(?:[.．](?![.．…])|[、:：](?![0-9一二三四五六七八九十百])|[)）])"
    rf"|第(?P<chapter>[0-9]{{1,4}}|[一二三四五六七八九十百千〇零]{{1,5}})[章節回卷篇段](?:[ :：、]|(?=\n|\Z))"
    rf"|(?P<bare>{_DIGITS}) (?=[^\s0-9０-９])"  # a row of numbers is a table's
)
# What a number may begin with.
NUMBER_STARTS = frozenset("(（[【〔0123456789０１２３４５６７８９一二三四五六七八九十百第")
_NUMBER = re.compile(_FORMS)
_NUMBERED_LINE = re.compile(rf"\n(?=[{re.escape(''.join(sorted(NUMBER_STARTS)))}])(?:{_FORMS})")
_VALUES = {c: i for i, c in enumerate("〇一二三四五六七八九")} | {"零": 0}
_UNITS = {"十": 10, "百": 100, "千": 1000}
_HAN_DIGITS = frozenset("一二三四五六七八九十百")

# Nouns that are counted, and words of dates, right behind a bare number: `1 隻牛`, `7 goeh8`.
_COUNTED_HAN = (
    "隻个個人年月日工點歲本張條間塊箍元圓萬千百擺次位名種項分秒代號樓冬頭粒蕊領台臺枝支欉座件句首篇組對雙副"
    "頓杯碗罐盒包尾門甲斤兩時週度級班期屆回番巷段世公禮%％幅頁款步聲戶棟桌頂疊站場齣部集冊架輛尊遍趟排"
)


_ABBREVIATION = re.compile(
    r"(?<![A-Za-z\u00c0-\u024f\u1e00-\u1eff])(?:mr|mrs|ms|dr|prof|st|rev|vs|cf|etc)\.\Z", re.I
)
SENTENCE_ENDS = "。！？…!?"
CLOSERS = "」』”’）》〉】〕〗｝)]\"'"


class Number(NamedTuple):
    """A number at a line's start: characters `start` to `end` of the text are the number and its mark.

    `counts`: a bare number with a counted noun behind it. `weak`: it may as well be text, as 五四、, 二．二八 and 228：
    are, so only other numbers show that it is none.
    """

    start: int
    end: int
    form: str
    value: int
    counts: bool = False
    weak: bool = False


def _value(numeral: str) -> int:
    if numeral.isdecimal():
        return int(numeral)
    if _UNITS.keys().isdisjoint(numeral):  # 一二 is 12
        return int("".join(str(_VALUES[character]) for character in numeral))
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
    counts = kind == "bare" and _is_counted(text, end)
    form, value = _form_and_value(text[start : match.end()], kind, match[kind])
    return Number(start, end, form, value, counts, _is_weak(match, kind, value))


def _is_weak(match: re.Match[str], kind: str, value: int) -> bool:
    """Whether a number's form alone does not tell it from text, see `Number`."""
    if kind in ("bare", "chapter"):
        return kind == "bare"
    if value > 10:
        numeral = match[kind]
        if value >= 100 or not (numeral.isdecimal() or "十" in numeral):
            return True
    end = match.end()
    return kind == "han" and match[0][-1] in ".．" and match.string[end : end + 1] in _HAN_DIGITS


def _is_counted(text: str, at: int) -> bool:
    """Whether a noun that is counted begins here.

    >>> _is_counted("隻牛", 0), _is_counted("goe̍h-chhe", 0), _is_counted("春天", 0)
    (True, True, False)
    """
    if text[at : at + 1] in _COUNTED_HAN:
        return True
    plain = unicodedata.normalize("NFD", text[at : at + 12])
    return _counted_latin().match("".join(c for c in plain if not unicodedata.combining(c))) is not None


@cache
def _counted_latin() -> re.Pattern[str]:
    """The counted nouns in Latin letters without tones; compiled where a number needs them."""
    return re.compile(
        "(?:goeh|gueh|geh|jit|lit|ni|tiam|hun|biau|kang|hoe|hue|he|chiah|tsiah|e|lang|pun|tiunn|tiau|keng|king|te|khoo?|oan"
        "|uann|ban|chheng|tshing|pah|cheng|pai|kai|ui|mia|chiong|tsiong|hang|ki|liap|lui|nia|tai|chang|tsang|kiann|ku|siu"
        "|phinn|tui|siang|tng|poe|pue|kin|niu|lau|ho|bi|khau|pau|ap|bu|tah|hioh"
        "|choa|chua|tsua|le-?pai|kha|chhut|tshut|chhioh|tshioh|chhun|tshun|kong-(?:li|kin|chhioh|tshioh)|khuan|khoan|phian|pho)"
        "(?![a-z])",
        re.I,
    )


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
    >>> ends_sentence("khi3 Tai5-lam5.", 15), ends_sentence("J.", 2), ends_sentence("看Dr.", 4)
    (True, False, False)
    >>> ends_sentence("chit tiâu lō\u0358.", 14)
    True
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
        # A full stop ends a sentence after a word, not after a number, an initial, an abbreviation or a dot.
        last = letter_at(text, i - 1)
        word = text[last].isalpha() and not (last == i - 1 and _is_initial(text, last))
        word = word and _ABBREVIATION.search(text, max(0, i - 5), i + 1) is None
        return last > 0 and (word or _is_tone(text, last))
    return text[i] in SENTENCE_ENDS


def letter_at(text: str, i: int) -> int:
    """Where the letter stands to which the character at i belongs: before the mark that i is, as that of o͘ and m̄.

    >>> letter_at("lo\u0358", 2), letter_at("lo", 1)
    (1, 1)
    """
    while i > 0 and unicodedata.combining(text[i]):
        i -= 1
    return i


def _is_tone(text: str, i: int) -> bool:
    """Whether the digit at i is the tone of a romanised syllable: the last letter of its word, as in goeh8, or the
    second of two, as Hakka writes them: ngai11.
    """
    if text[i] not in TONE_DIGITS:
        return False
    letter = text[letter_at(text, i - 1 - (text[i - 1] in TONE_DIGITS))]
    return letter.isalpha() and letter < "\u2e80"


def _is_initial(text: str, i: int) -> bool:
    return text[i].isascii() and text[i].isupper() and (i == 0 or not text[i - 1].isalpha())


def in_sequence(numbers: list[Number]) -> set[int]:
    """Which of some numbers, by their place in the list, run on from, or into, the nearest number of the same form.

    Bare numbers are counts and dates too: `7 goeh8`, `3 隻牛`. A run of them numbers paragraphs only if it begins at
    0 or 1, or goes on behind another run, and if fewer than half of its numbers stand before a counted noun.
    """
    by_form: dict[str, list[int]] = {}
    for place, number in enumerate(numbers):
        by_form.setdefault(number.form, []).append(place)
    found: set[int] = set()
    for form, same in by_form.items():
        reached = 0  # the last value of a run of this form that numbers paragraphs
        for run in _runs(numbers, same):
            if len(run) > 1 and (not form.startswith("bare") or _numbers_paragraphs(numbers, run, reached)):
                found.update(run)
                reached = numbers[run[-1]].value
    return found


def _numbers_paragraphs(numbers: list[Number], run: list[int], reached: int) -> bool:
    """Whether a run of bare numbers does so, behind one that reached a value, see `in_sequence`."""
    first = numbers[run[0]].value
    counting = sum(numbers[place].counts for place in run)
    return (first <= 1 or 0 < reached < first) and 2 * counting < len(run)


def _runs(numbers: list[Number], places: list[int]) -> list[list[int]]:
    """The places, parted where a number does not follow the one before it."""
    runs: list[list[int]] = []
    expected = -1
    for place in places:
        value = numbers[place].value
        if value == expected:
            runs[-1].append(place)
        else:
            runs.append([place])
        expected = value + 1
    return runs


def find_numbering(text: str) -> list[Number]:
    """The numbers to remove: those that run in sequence, and those after a complete sentence.

    >>> [n.value for n in find_numbering("1. 春天\\n2. 熱天")]
    [1, 2]
    >>> find_numbering("7、80 冬前") or find_numbering("2.25，台南") or find_numbering("25 歲彼年")
    []
    >>> find_numbering("二．二八事件") or find_numbering("五四、九一八")
    []
    """
    numbers = list(candidates(text))
    if not numbers:
        return []
    sequence = in_sequence(numbers)
    return [
        n
        for place, n in enumerate(numbers)
        if place in sequence or (not n.weak and ends_sentence(text, max(0, n.start - 1)))
    ]
