"""The optional rule for HTML: tags go, those of blocks and <br> become line breaks, entities their characters."""

from __future__ import annotations

import html
import re

from corpus_tools.cleaning.rules import LINE_BREAK, SEPARATOR, Log, rewritten

_BREAKING = (
    "address|article|aside|blockquote|br|caption|dd|details|dialog|dir|div|dl|dt|fieldset|figcaption|figure|h[1-6]|hr"
    "|legend|li|menu|ol|optgroup|option|p|pre|section|summary|table|td|th|tr|ul"
)
_OTHER_TAGS = (
    "a|abbr|acronym|area|audio|b|base|bdi|bdo|big|body|button|canvas|center|cite|code|col|colgroup|data|datalist|del|dfn"
    "|em|embed|font|footer|form|frame|frameset|g|head|header|hgroup|html|i|iframe|img|input|ins|kbd|label|link|main|map"
    "|mark|marquee|meta|meter|nav|nobr|noframes|noscript|object|output|param|path|picture|progress|q|rb|rect|rp|rt|rtc"
    "|ruby|s|samp|search|select|slot|small|source|span|strike|strong|sub|sup|svg|tbody|template|textarea|tfoot|thead"
    "|time|title|track|tt|u|use|var|video|wbr|[ovw]:[a-z]+"
)
_BARE_ATTRIBUTES = (
    "checked|clear|compact|controls|defer|async|disabled|hidden|noshade|nowrap|open|readonly|selected"
)
# Words in `a <b and c> d` are none.
_BEGINS_ATTRIBUTE = rf"(?=\s*(?:/?>|[A-Za-z_:@][^<>\s=]*\s*=|(?:{_BARE_ATTRIBUTES})\b))"
# Values may hold > in quotes; where quotes do not match, the first > ends the tag.
_VALUES = rf"""(?:[^<>"'{SEPARATOR}]|"[^"<{SEPARATOR}]*"|'[^'<{SEPARATOR}]*')*"""
_ATTRIBUTES = rf"(?:\s{_BEGINS_ATTRIBUTE}{_VALUES}|\s{_BEGINS_ATTRIBUTE}[^<>{SEPARATOR}]*)?"
# What may be written without its semicolon, as browsers read it; not in an address's ?a=1&amp=2 or in AT&T.
_BARE = r"&(?:nbsp|lt|gt|amp|quot)(?![A-Za-z0-9;=])"
_MARKUP = re.compile(
    rf"<!--[^{SEPARATOR}]*?-->|<!\[CDATA\[|\]\]>|<(?:!DOCTYPE|\?xml)\b[^<>{SEPARATOR}]*>|<(script|style)\b[^{SEPARATOR}]*?</\1\s*>"
    rf"|</?(?P<breaking>{_BREAKING}){_ATTRIBUTES}/?>|</?(?:{_OTHER_TAGS}){_ATTRIBUTES}/?>"
    rf"|(?P<entity>&(?:#[0-9]{{1,7}}|#[xX][0-9a-fA-F]{{1,6}}|[A-Za-z][A-Za-z0-9]{{1,31}});|{_BARE})",
    re.I,
)
_BREAKS = re.compile(f"{LINE_BREAK} *(?:{LINE_BREAK} *)+")
_BREAK_AT_START = re.compile(
    rf"(?:\A|(?<=[\n{SEPARATOR}])) *{LINE_BREAK}"
)  # which would only make an empty line


def remove_markup(text: str, log: Log) -> str:
    """One pass; what was escaped twice needs another.

    A tag, a comment or a script that goes over lines leaves its line breaks.

    >>> remove_markup("阮兜&nbsp;佇&lt;台南&gt;，<p>伊講&#12289;<b>好</b></p>", []).replace(LINE_BREAK, "|")
    '阮兜\\xa0佇<台南>，|伊講、好|'
    >>> remove_markup('<img alt="海 > 山">台南<!-- 註\\n解 -->', [])
    '台南\\n'
    """

    def new(match: re.Match[str]) -> str:
        if match["entity"]:
            return html.unescape(match[0]).replace("\n", LINE_BREAK)
        return (LINE_BREAK if match["breaking"] else "") + "\n" * match[0].count("\n")

    text = rewritten(_MARKUP, new, text, log)
    if LINE_BREAK not in text:
        return text
    text = rewritten(_BREAKS, lambda _: LINE_BREAK, text, log)
    return rewritten(_BREAK_AT_START, lambda _: "", text, log)
