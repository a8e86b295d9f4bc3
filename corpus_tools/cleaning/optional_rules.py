"""Rules that run only when asked for, and rules that users write: before the built-in ones, on the joined text.

Like those they neither add nor remove a line break. Where a tag stands for one they put LINE_BREAK, which becomes one
when all of them have run.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Sequence
from typing import get_args

from corpus_tools.cleaning.characters import HAN
from corpus_tools.cleaning.romanisation import WORD, Orthography, converted, library
from corpus_tools.cleaning.rules import SEPARATOR, Log, Rule
from corpus_tools.documents import OptionalRule, OwnRule
from corpus_tools.errors import InputError

LINE_BREAK = "\ufdd0"  # a code point that is no character

_BREAKING = "address|article|blockquote|br|dd|div|dl|dt|h[1-6]|hr|li|ol|p|pre|section|table|td|th|tr|ul"
_OTHER_TAGS = (
    "a|abbr|b|big|body|center|cite|code|em|font|form|head|header|footer|html|i|img|input|label|link|main|meta|nav|o:p"
    "|option|rb|rp|rt|ruby|s|small|span|strike|strong|sub|sup|tbody|tfoot|thead|title|tt|u|video|wbr"
)
_MARKUP = re.compile(
    rf"<!--[^\n{SEPARATOR}]*?-->|<(script|style)\b[^\n{SEPARATOR}]*?</\1\s*>"
    rf"|</?(?P<breaking>{_BREAKING})(?:\s[^<>\n{SEPARATOR}]*)?/?>|</?(?:{_OTHER_TAGS})(?:\s[^<>\n{SEPARATOR}]*)?/?>"
    r"|(?P<entity>&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});)",
    re.I,
)
_BREAKS = re.compile(f"{LINE_BREAK} *(?:{LINE_BREAK} *)+")
_START, _END = rf"(?:(?<=[\n{SEPARATOR}{LINE_BREAK}])|\A)", rf"(?=[\n{SEPARATOR}{LINE_BREAK}]|\Z)"
_FURNITURE = re.compile(
    r"[^\s。！？，；：、」』）…]*\.indd +[0-9]+(?:-[0-9]+)? +[0-9]{2,4}[/.-][0-9]{1,2}[/.-][0-9]{1,2} +"
    r"(?:上午|下午|[AaPp][Mm])? ?[0-9]{1,2}:[0-9]{2}(?::[0-9]{2})?(?: ?[AaPp][Mm])?"
    rf"|{_START} *(?:(?:PAGE +)+-? *[0-9]{{1,4}} *-?|[-–—‧·•~～] *[0-9]{{1,4}} *[-–—‧·•~～]|[0-9]{{1,4}}"
    rf"|[〈\[] *[0-9]{{1,4}} *[〉\]]"
    rf"|(?:page|p\.) *[0-9]{{1,4}}(?: +of +[0-9]{{1,4}})?"
    rf"|第 *(?:[0-9]{{1,4}}|[〇零一二三四五六七八九十百]{{1,5}}) *頁(?:[,，]? *[共/] *[0-9]{{1,4}} *頁)?) *{_END}",
    re.I,
)
_SPACED_HAN = re.compile(f"[{HAN}]+(?: [{HAN}]+)+")
_SPACED_MARK = re.compile(
    f"(?<=[{HAN}]) (?=[，。、；：！？」』）])|(?<=[，。、；：！？「『（]) (?=[{HAN}「『（])"
)
_EMAIL = re.compile(r"[A-Za-z0-9._%+\-]+@[A-Za-z0-9\-]+(?:\.[A-Za-z0-9\-]+)+")
_PHONE = re.compile(
    r"(?<![0-9A-Za-z.\-])(?:\+886[- ]?\(?0?[0-9]{1,3}\)?|\(0[0-9]{1,3}\)|0[0-9]{1,3})[- ]?[0-9]{3,4}[- ]?[0-9]{3,4}"
    r"(?: ?(?:#|轉|分機|[eE]xt\.?) ?[0-9]{1,6})?(?![0-9A-Za-z\-])"
)
_SECONDS = 5.0  # for one of a user's patterns on a batch of articles


def _rewritten(pattern: re.Pattern[str], new: Callable[[re.Match[str]], str], text: str, log: Log) -> str:
    """`pattern.sub(new, text)`, each change logged."""

    def change(match: re.Match[str]) -> str:
        written = new(match)
        if written != match[0]:
            log.append((match.start(), [match[0]]))
        return written

    return pattern.sub(change, text)


def remove_markup(text: str, log: Log) -> str:
    """HTML tags go, those of blocks and <br> become line breaks, entities their characters.

    >>> remove_markup("阮兜&nbsp;佇&lt;台南&gt;，<p>伊講&#12289;<b>好</b></p>", []).replace(LINE_BREAK, "|")
    '阮兜\\xa0佇<台南>，|伊講、好|'
    """

    def new(match: re.Match[str]) -> str:
        if match["breaking"]:
            return LINE_BREAK
        return html.unescape(match[0]).replace("\n", LINE_BREAK) if match["entity"] else ""

    text = _rewritten(_MARKUP, new, text, log)
    return _rewritten(_BREAKS, lambda _: LINE_BREAK, text, log) if LINE_BREAK in text else text


def remove_page_marks(text: str, log: Log) -> str:
    """Printers' furniture goes: footers of InDesign anywhere, page marks and lone page numbers on lines of their own.

    >>> remove_page_marks("阮兜。\\nPAGE PAGE - 21 -\\n伊。冊皮-初校0101.indd 7 2020/1/2 上午9:00\\n第 3 頁\\n7 隻", [])
    '阮兜。\\n\\n伊。\\n\\n7 隻'
    """
    return _rewritten(_FURNITURE, lambda _: "", text, log)


def close_han(text: str, log: Log) -> str:
    """Single spaces go that a layout left between Han characters, or between them and full-width marks.

    Those between Han stay that part clauses (each of four characters or more: verse) or a list (each as long as the
    others, of two or more): a layout's spaces cut pieces of any length.

    >>> close_han("咱 五分鐘就好，定定 嘛 浸甲昏去", []), close_han("台 語 文 學", [])
    ('咱五分鐘就好，定定嘛浸甲昏去', '台語文學')
    >>> close_han("一更更鼓月照山 牽君的手摸心肝", []), close_han("春天 熱天 秋天", [])
    ('一更更鼓月照山 牽君的手摸心肝', '春天 熱天 秋天')
    """

    def new(match: re.Match[str]) -> str:
        lengths = {len(piece) for piece in match[0].split(" ")}
        means_something = min(lengths) >= 4 or (len(lengths) == 1 and min(lengths) > 1)
        return match[0] if means_something else match[0].replace(" ", "")

    return _rewritten(_SPACED_MARK, lambda _: "", _rewritten(_SPACED_HAN, new, text, log), log)


def remove_contacts(text: str, log: Log) -> str:
    """E-mail addresses and telephone numbers of Taiwan go.

    >>> remove_contacts("寫批予a.b@c.tw，抑是敲06-2757575、0912-345-678，2010-09-20", [])
    '寫批予，抑是敲、，2010-09-20'
    """
    return _rewritten(_PHONE, lambda _: "", _rewritten(_EMAIL, lambda _: "", text, log), log)


def mask_contacts(text: str, log: Log) -> str:
    """The same become [email] and [phone].

    >>> mask_contacts("寫批予a.b@c.tw抑是敲(06)275-7575", [])
    '寫批予[email]抑是敲[phone]'
    """
    text = _rewritten(_EMAIL, lambda _: "[email]", text, log)
    return _rewritten(_PHONE, lambda _: "[phone]", text, log)


def _convert(orthography: Orthography) -> Callable[[str, Log], str]:
    """A rule that writes romanised words in an orthography, tone digits as diacritics."""

    def apply(text: str, log: Log) -> str:
        return _rewritten(WORD, lambda match: converted(match[0], orthography), text, log)

    return apply


def _own(rule: OwnRule) -> Rule:
    """The rule, its examples checked.

    Raises:
        InputError: The pattern is none, or an example proves it wrong.
    """
    import regex  # takes a while to load, for rules that few runs have

    try:
        pattern = regex.compile(rule.pattern)
        if any(int(number) > pattern.groups for number in re.findall(r"\\([0-9]+)", rule.replacement)):
            raise IndexError(f"it has {pattern.groups} groups, its replacement {rule.replacement} wants more")
        for example in [*rule.matches, *rule.leaves]:
            if bool(pattern.search(example)) != (example in rule.matches):
                found = "finds nothing in" if example in rule.matches else "finds something in"
                raise InputError(
                    f"own rule {rule.name}: {rule.pattern} {found} {example!r}; mend the pattern or the example."
                )
        if pattern.search(""):
            raise InputError(
                f"own rule {rule.name}: {rule.pattern} matches nothing at all, so everywhere; mend it."
            )
        for example in rule.matches:
            pattern.sub(rule.replacement, example)
    except (regex.error, IndexError) as error:
        raise InputError(f"own rule {rule.name}: {rule.pattern} is no pattern ({error}); mend it.") from error

    def apply(text: str, log: Log) -> str:
        def change(match: regex.Match[str]) -> str:
            new = match.expand(rule.replacement)
            if match[0].count("\n") or SEPARATOR in match[0] or "\n" in new:
                raise InputError(
                    f"own rule {rule.name}: it changes a line break; exclude \\n from the pattern."
                )
            if new != match[0]:
                log.append((match.start(), [match[0]]))
            return new

        try:
            return pattern.sub(change, text, timeout=_SECONDS)
        except TimeoutError as error:
            raise InputError(
                f"own rule {rule.name}: {rule.pattern} takes more than {_SECONDS:.0f} s; make it simpler."
            ) from error

    return Rule(f"own_{rule.name}", apply)


_RULES = {
    "html": Rule("html", remove_markup),
    "pages": Rule("pages", remove_page_marks),
    "contacts": Rule("contacts", remove_contacts),
    "mask_contacts": Rule("contacts", mask_contacts),
    "han_spaces": Rule("han_spaces", close_han),
    "tailo": Rule("tailo", _convert("tailo")),
    "poj": Rule("poj", _convert("poj")),
}


def extra_rules(optional: Sequence[str], own: Sequence[OwnRule]) -> list[Rule]:
    """The optional rules asked for in their order, then the user's own in theirs.

    Raises:
        InputError: A rule does not exist, or an own one is wrong.
    """
    if unknown := sorted(set(optional) - set(_RULES)):
        known = ", ".join(get_args(OptionalRule))
        raise InputError(f"there is no optional rule {', '.join(unknown)}; there are {known}.")
    if {"tailo", "poj"} & set(optional):
        library()  # if it is missing, that should be said before the work begins
    names = [rule.name for rule in own]
    if len(set(names)) < len(names):
        raise InputError(f"own rules share a name: {', '.join(names)}; give each its own.")
    return [rule for name, rule in _RULES.items() if name in optional] + list(map(_own, own))
