"""The cleaning rules: pure text in, text and number of changes out; their one order is `RULES`.

A text is an article, one paragraph a line. No rule adds or removes a line break, so a line of the result is
the same line of the input. Patterns begin with a literal or a small class: the engine then skips ahead, which
is most of the speed.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from corpus_tools.characters import HAN, INVISIBLE, ODD_SPACES, PRIVATE_USE, SMALL_FORMS, Kind, census
from corpus_tools.numbering import find_numbering

_CONTROLS = dict.fromkeys(ODD_SPACES, " ") | dict.fromkeys(INVISIBLE, "")
_CONTROL = re.compile(f"[{re.escape(''.join(_CONTROLS))}]")
_SMALL_FORM = re.compile(f"[{''.join(SMALL_FORMS)}]")
_BOX_DASH = re.compile("──+")
_PRIVATE_USE = {chr(code): character for code, character in PRIVATE_USE.items()}
_PRIVATE = re.compile(f"[{''.join(_PRIVATE_USE)}]")
# RFC 3986's characters; the address may be glued to text on either side.
_URL = re.compile(
    r"[hH](?:[tT]{2}[pP][sS]?://[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%]*)"
    r"|[wW]{3}\.[A-Za-z0-9\-_~%][A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%]*"
)
_FULL_WIDTH = dict(zip(",?!:;", "，？！：；", strict=True))
_HALF_WIDTH = re.compile(rf"[,?!:;](?<=[{HAN}].)[,?!:;]*")
_ELLIPSIS = re.compile(r"…(?:…|。。+|\.\.\.+)*|。。(?:…|。|\.\.\.+)*|\.\.\.(?:\.|…|。。+)*")
_SPACES = re.compile("  +")


def replace_controls(text: str) -> tuple[str, int]:
    """Odd spaces become a space, controls and invisible characters go; U+FFFD stays visible.

    >>> replace_controls("阮\\xa0兜\\x07佇\\u2028台南")
    ('阮 兜佇 台南', 3)
    """
    return _CONTROL.subn(lambda m: _CONTROLS[m[0]], text)


def replace_private_use(text: str) -> tuple[str, int]:
    """The Ministry of Education's nine private-use characters become Unicode's; unknown ones stay.

    >>> replace_private_use("\\ue701的\\ue055")
    ('𪜶的\\ue055', 1)
    """
    return _PRIVATE.subn(lambda m: _PRIVATE_USE[m[0]], text)


def replace_small_forms(text: str) -> tuple[str, int]:
    """Small and half-width forms of full-width marks become the marks; box-drawing dashes become dashes.

    >>> replace_small_forms("｢好﹐伊講──｣ Lí hó, lán")
    ('「好，伊講——」 Lí hó, lán', 4)
    """
    text, small = _SMALL_FORM.subn(lambda m: SMALL_FORMS[m[0]], text)
    text, dashes = _BOX_DASH.subn(lambda m: "—" * len(m[0]), text)
    return text, small + dashes


def _trim_address(address: str) -> int:
    """Length of the address without the marks of the sentence around it.

    A closing bracket belongs to the address if it opens there too.
    """
    end = len(address)
    while end:
        last = address[end - 1]
        unbalanced = last == ")" and address.count("(", 0, end) < address.count(")", 0, end)
        unbalanced |= last == "]" and address.count("[", 0, end) < address.count("]", 0, end)
        if last not in ".,;:!?'" and not unbalanced or address[:end].endswith("://"):
            break
        end -= 1
    return end


def remove_urls(text: str) -> tuple[str, int]:
    """Addresses with http://, https:// or www. go; the text glued to them stays.

    >>> remove_urls("補破網https://www.youtube.com/watch?v=AsKDpyJDYlQ後擺講")
    ('補破網後擺講', 1)
    >>> remove_urls("（看 HTTP://a.tw/b_(c)），www.d.tw.")
    ('（看 ），.', 2)
    """
    changes = 0
    while True:
        text, found = _URL.subn(lambda m: m[0][_trim_address(m[0]) :], text)
        if not found:
            return text, changes
        changes += found  # what stood on either side may now spell another address


def compose(text: str) -> tuple[str, int]:
    """Canonical composition, NFC (never NFKC: ⁿ, ① and full-width ｅ are text).

    >>> compose("e\\u0302 a\\u030d ⁿ ①")
    ('ê a̍ ⁿ ①', 1)
    """
    if unicodedata.is_normalized("NFC", text):
        return text, 0
    composed = unicodedata.normalize("NFC", text)
    return composed, max(1, len(text) - len(composed))


def widen_marks(text: str) -> tuple[str, int]:
    """Half-width , ? ! : ; after a Han character become full-width; in romanisation and numbers they stay.

    >>> widen_marks("伊講:好!? Lí hó, lán 11:30 lâi-khì!")
    ('伊講：好！？ Lí hó, lán 11:30 lâi-khì!', 2)
    """
    return _HALF_WIDTH.subn(lambda m: "".join([_FULL_WIDTH[c] for c in m[0]]), text)


def unify_ellipses(text: str) -> tuple[str, int]:
    """Three dots or more, two 。 or more and every … become ……

    >>> unify_ellipses("好...伊。。無…愛……3.5")
    ('好……伊……無……愛……3.5', 3)
    """
    changes = 0

    def six_dots(match: re.Match[str]) -> str:
        nonlocal changes
        changes += match[0] != "……"
        return "……"

    return _ELLIPSIS.sub(six_dots, text), changes


def squeeze_spaces(text: str) -> tuple[str, int]:
    """Runs of spaces become one; none stays at the edges of a line.

    >>> squeeze_spaces(" 胡長松     槍聲 \\n 冷鋒面")
    ('胡長松 槍聲\\n冷鋒面', 4)
    """
    text, changes = _SPACES.subn(" ", text)
    squeezed = text.replace(" \n", "\n").replace("\n ", "\n").strip(" ")
    return squeezed, changes + len(text) - len(squeezed)


def remove_numbering(text: str) -> tuple[str, int]:
    """Paragraph numbers go where their neighbours show that they are such (see `numbering`).

    >>> remove_numbering("一、春天來矣。\\n二、熱天閣較遠。\\n7、80 冬前。\\n第一回去台北。")
    ('春天來矣。\\n熱天閣較遠。\\n7、80 冬前。\\n第一回去台北。', 2)
    """
    changes = 0
    while numbers := find_numbering(text):
        kept, at = [], 0
        for number in numbers:
            kept.append(text[at : number.start])
            at = number.end
        text = "".join([*kept, text[at:]])
        changes += len(numbers)
    return text, changes


class Rule(NamedTuple):
    """One rule; `needs` are the kinds of character without which it changes nothing (empty: always run)."""

    name: str
    apply: Callable[[str], tuple[str, int]]
    needs: tuple[Kind, ...] = ()


# Composition follows the removals that bring characters together; numbering sees uniform marks and spaces.
RULES = (
    Rule("controls", replace_controls, (Kind.CONTROL,)),
    Rule("urls", remove_urls, (Kind.LATIN,)),
    Rule("composition", compose, (Kind.MARK, Kind.COMPATIBILITY)),
    Rule("private_use", replace_private_use, (Kind.PRIVATE,)),
    Rule("small_forms", replace_small_forms, (Kind.SMALL,)),
    Rule("half_width", widen_marks),
    Rule("ellipses", unify_ellipses),
    Rule("spaces", squeeze_spaces),
    Rule("numbering", remove_numbering),
)


def clean_text(text: str) -> str:
    """An article cleaned by all rules; cleaning twice changes nothing more.

    >>> clean_text("1. 阮兜佇台南 ,看 https://is.gd/BopckD後擺講...")
    '阮兜佇台南 ,看 後擺講……'
    """
    return clean_and_count(text, Counter(), Counter())


def clean_and_count(text: str, changes: Counter[str], removed: Counter[str]) -> str:
    """`clean_text`, adding to `changes` how often each rule struck and to `removed` the characters it took."""
    counts = census(text)
    for rule in RULES:
        if rule.needs and not any(counts[kind] for kind in rule.needs):
            continue
        before = len(text)
        text, found = rule.apply(text)
        if found:
            changes[rule.name] += found
            removed[rule.name] += before - len(text)
    return text
