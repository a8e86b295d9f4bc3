"""The cleaning rules: pure text in, text out; their one order is `RULES`.

A text is an article, one paragraph a line; or several with SEPARATOR between them, for rules that look at a line
alone. No rule adds or removes a line break, so a line of the result is the same line of the input. Each rule
appends to `log` where it changed something and what stood there. Patterns begin with a literal or a small class:
the engine then skips ahead, which is most of the speed.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from itertools import pairwise
from operator import ne
from typing import NamedTuple

from corpus_tools.cleaning.characters import (
    HAN,
    INVISIBLE,
    ODD_SPACES,
    PRIVATE_USE,
    SMALL_FORMS,
    may_compose,
)
from corpus_tools.cleaning.numbering import find_numbering
from corpus_tools.cleaning.syllables import MIDDLE_DOTS, is_poj_dot
from corpus_tools.cleaning.urls import find_urls

# Stands between articles that are cleaned at once: half a character, which no file has.
SEPARATOR = "\udfff"
LINE_BREAK = "\ufdd0"  # what optional rules put for a line break of markup: a code point that is no character

# Changes in order: where one is in the text given to the rule, and what stood there and at the next ones.
Log = list[tuple[int, list[str]]]

CHARACTERS = (
    dict.fromkeys(ODD_SPACES, " ")
    | dict.fromkeys(INVISIBLE, "")
    | {chr(code): character for code, character in PRIVATE_USE.items()}
    | SMALL_FORMS
)
# The group is for `_logged_sub`.
_CHARACTER = re.compile(f"([{re.escape(''.join(CHARACTERS))}])")
_MIDDLE_DOT = re.compile(f"[{MIDDLE_DOTS}]")
_BOX_DASH = re.compile(r"(─(?<![\u2500-\u257f]─)─++(?![\u2500-\u257f]))")  # not in a frame: ┌──┐
_FULL_WIDTH = str.maketrans(",?!:;", "，？！：；")
_HALF_WIDTH = re.compile(rf"([,?!:;](?<=[{HAN}].)[,?!:;]*)")
_STOPS = re.compile("(。。+)")
_DOTS = re.compile(r"(\.\.\.+)")
_NOT_SIX_DOTS = re.compile("(…(?:…{2,}|(?<!……)(?!…)))")
_SPACES = re.compile("(  +)")
_TRAILING, _LEADING = re.compile("( \n)"), re.compile("(\n )")
_SPACE_AT_EDGE = re.compile("\n(?:(?= )|(?<= \n))")


def _logged_sub(
    pattern: re.Pattern[str], replacement: Callable[[str], str], text: str, log: Log | None
) -> str:
    """`pattern.sub`, logged. The pattern is one group: so `split` gives every span without a call for each."""
    pieces = pattern.split(text)
    if len(pieces) == 1:
        return text
    found = pieces[1::2]
    if log is not None:
        log.append((len(pieces[0]), found.copy()))
    pieces[1::2] = map(replacement, found)
    return "".join(pieces)


def rewritten(pattern: re.Pattern[str], new: Callable[[re.Match[str]], str], text: str, log: Log) -> str:
    """`pattern.sub(new, text)`, each change logged."""

    def change(match: re.Match[str]) -> str:
        written = new(match)
        if written != match[0]:
            log.append((match.start(), [match[0]]))
        return written

    return pattern.sub(change, text)


def _cut_out(text: str, spans: Iterable[tuple[int, int]], log: Log | None) -> str:
    """The text without some spans, logged."""
    kept, at = [], 0
    for start, end in spans:
        kept.append(text[at:start])
        at = end
        if log is not None:
            log.append((start, [text[start:end]]))
    return "".join([*kept, text[at:]]) if kept else text


def replace_characters(text: str, log: Log | None = None) -> str:
    """One character for another: odd spaces, controls, small forms, the Ministry's private-use characters.

    U+FFFD and unknown private-use characters stay, and are counted by the report.

    >>> replace_characters("阮\\xa0兜\\x07佇\\u2028台南﹐｢\\ue701的｣\\ue055 Lí hó, ｅ")
    '阮 兜佇 台南，「𪜶的」\\ue055 Lí hó, ｅ'
    """
    return _logged_sub(_CHARACTER, CHARACTERS.__getitem__, text, log)


def replace_box_dashes(text: str, log: Log | None = None) -> str:
    """Dashes drawn with box-drawing lines become dashes, frames stay; `--` is a letter of Tâi-lô and POJ and stays.

    >>> replace_box_dashes("伊講──行！厝--lìn ┌──┬──┐")
    '伊講——行！厝--lìn ┌──┬──┐'
    """
    return _logged_sub(_BOX_DASH, lambda dashes: "—" * len(dashes), text, log)


def write_poj_dots(text: str, log: Log | None = None) -> str:
    """A middle dot or a bullet behind the o of a POJ syllable becomes the combining dot U+0358.

    >>> write_poj_dots("lô· kho·-lān ho‧ⁿ，馬克·吐溫、Mario·仔、A·O·B")
    'lô͘ kho͘-lān ho͘ⁿ，馬克·吐溫、Mario·仔、A·O·B'
    """
    found = [match.start() for match in _MIDDLE_DOT.finditer(text) if is_poj_dot(text, match.start())]
    pieces = [text[a + 1 : b] for a, b in pairwise([-1, *found, len(text)])]
    if log is not None:
        log += [(place, [text[place]]) for place in found]
    return "\u0358".join(pieces)


def remove_urls(text: str, log: Log | None = None) -> str:
    """Addresses with http://, https:// or www. go; the text glued to them stays.

    >>> remove_urls("補破網https://www.youtube.com/watch?v=AsKDpyJDYlQ後擺講")
    '補破網後擺講'
    """
    return _cut_out(text, find_urls(text), log)


@lru_cache(65536)
def _composes(sequence: str) -> bool:
    return not unicodedata.is_normalized("NFC", sequence)


@lru_cache(65536)
def may_compose_pair(pair: str) -> bool:
    """Whether a pair composes, or could with what stands before it."""
    return unicodedata.combining(pair[0]) > 0 or _composes(pair)


def compose(text: str, log: Log | None = None) -> str:
    """Canonical composition, NFC (never NFKC: ⁿ, ① and full-width ｅ are text).

    >>> compose("e\u0302 a\u030d ⁿ ① \uf941")
    'ê a̍ ⁿ ① 論'
    """
    places = may_compose(text)
    if not any(map(may_compose_pair, {text[max(0, place - 1) : place + 1] for place in places})):
        return text
    log = [] if log is None else log
    known = len(log)
    for place in places:
        end = place + 1
        start = max(0, place - 1)
        if not may_compose_pair(text[start:end]):
            continue
        while start and unicodedata.combining(text[start]):
            start -= 1
        start += text[start] == SEPARATOR
        if _composes(text[start:end]):
            log.append((start, [text[start:end]]))
    return unicodedata.normalize("NFC", text) if len(log) > known else text


@lru_cache(1024)
def _widened(marks: str) -> str:
    return marks.translate(_FULL_WIDTH)


def widen_marks(text: str, log: Log | None = None) -> str:
    """Half-width , ? ! : ; after a Han character become full-width; in romanisation and numbers they stay.

    >>> widen_marks("伊講:好!? Lí hó, lán 11:30 lâi-khì!")
    '伊講：好！？ Lí hó, lán 11:30 lâi-khì!'
    """
    return _logged_sub(_HALF_WIDTH, _widened, text, log)


def unify_ellipses(text: str, log: Log | None = None) -> str:
    """Three dots or more, two 。 or more and every … become ……

    >>> unify_ellipses("好...伊。。無…愛……3.5")
    '好……伊……無……愛……3.5'
    """
    for pattern in (_STOPS, _DOTS, _NOT_SIX_DOTS):
        text = _logged_sub(pattern, lambda _: "……", text, log)
    return text


def squeeze_spaces(text: str, log: Log | None = None) -> str:
    """Runs of spaces become one; none stays at the edges of a line.

    >>> squeeze_spaces(" 胡長松     槍聲 \\n 冷鋒面")
    '胡長松 槍聲\\n冷鋒面'
    """
    text = _logged_sub(_SPACES, lambda _: " ", text, log)
    if _SPACE_AT_EDGE.search(text):
        for edge in (_TRAILING, _LEADING):
            text = _logged_sub(edge, lambda _: "\n", text, log)
    articles = text.split(SEPARATOR)
    stripped = [article.strip(" ") for article in articles]
    if log is not None and (changed := list(map(ne, stripped, articles))) and any(changed):
        first = changed.index(True)
        place = sum(map(len, articles[:first])) + first
        if not articles[first].startswith(" "):
            place += len(stripped[first])
        log.append((place, [" "] * sum(changed)))
    return SEPARATOR.join(stripped)


def remove_numbering(text: str, log: Log | None = None) -> str:
    """Paragraph numbers go where their neighbours show that they are such (see `numbering`).

    >>> remove_numbering("一、春天來矣。\\n二、熱天閣較遠。\\n7、80 冬前。\\n第一回去台北。")
    '春天來矣。\\n熱天閣較遠。\\n7、80 冬前。\\n第一回去台北。'
    """
    return _cut_out(text, [(number.start, number.end) for number in find_numbering(text)], log)


class Rule(NamedTuple):
    """A rule and its name in the report; `repeats`: what it leaves may match again, so it runs until it rests."""

    name: str
    apply: Callable[[str, Log], str]
    repeats: bool = False


# The one rule that looks at other lines than its own.
NUMBERING = Rule("numbering", remove_numbering, repeats=True)
POJ_DOTS = Rule("poj_dots", write_poj_dots)
# Dashes, dots and composition follow the removals that bring characters together; numbering sees uniform marks and
# spaces.
# A rule may be left out here. `prefilter` must select every line that a new rule changes; numbering stays last.
RULES = (
    Rule("characters", replace_characters),
    Rule("urls", remove_urls, repeats=True),
    Rule("dashes", replace_box_dashes),
    POJ_DOTS,
    Rule("composition", compose),
    Rule("half_width", widen_marks),
    Rule("ellipses", unify_ellipses),
    Rule("spaces", squeeze_spaces),
    NUMBERING,
)


class Step(NamedTuple):
    """What one rule changed: the text before and after, and the log of the changed spans."""

    rule: str
    before: str
    after: str
    log: Log


def rule_steps(rule: Rule, text: str) -> Iterator[Step]:
    """A rule's one step, if it changes something; of a rule that repeats all steps until it rests."""
    while True:
        log: Log = []
        after = rule.apply(text, log)
        if log:
            yield Step(rule.name, text, after, log)
        if not (log and rule.repeats):
            return
        text = after


def clean_steps(text: str) -> Iterator[Step]:
    """The rules one after the other; only steps that changed something."""
    for rule in RULES:
        for step in rule_steps(rule, text):
            yield step
            text = step.after


def clean_text(text: str) -> str:
    """An article cleaned by all rules; cleaning twice changes nothing more.

    Args:
        text: one article, or a part of one, with its line breaks.

    Returns:
        what the rules leave, perhaps nothing. No text is refused.

    >>> clean_text("1. 阮兜佇台南,看 https://is.gd/BopckD後擺講...")
    '阮兜佇台南，看 後擺講……'
    """
    for step in clean_steps(text):
        text = step.after
    return text
