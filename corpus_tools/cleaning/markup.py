"""The optional rule for HTML: tags go, those of blocks and <br> become line breaks, entities their characters."""

from __future__ import annotations

import html
import re

from corpus_tools.cleaning.rules import LINE_BREAK, SEPARATOR, Log, rewritten

_BREAKING = "address|article|blockquote|br|dd|div|dl|dt|h[1-6]|hr|li|ol|p|pre|section|table|td|th|tr|ul"
_OTHER_TAGS = (
    "a|abbr|b|big|body|center|cite|code|em|font|form|head|header|footer|html|i|img|input|label|link|main|meta|nav|o:p"
    "|option|rb|rp|rt|ruby|s|small|span|strike|strong|sub|sup|tbody|tfoot|thead|title|tt|u|video|wbr"
)
# Values may hold > in quotes; where quotes do not match, the first > ends the tag.
_ATTRIBUTES = (
    rf"""(?:\s(?:[^<>"'{SEPARATOR}]|"[^"<{SEPARATOR}]*"|'[^'<{SEPARATOR}]*')*|\s[^<>{SEPARATOR}]*)?"""
)
# What may be written without its semicolon, as browsers read it; not in an address's ?a=1&amp=2 or in AT&T.
_BARE = r"&(?:nbsp|lt|gt|amp|quot)(?![A-Za-z0-9;=])"
_MARKUP = re.compile(
    rf"<!--[^{SEPARATOR}]*?-->|<(script|style)\b[^{SEPARATOR}]*?</\1\s*>"
    rf"|</?(?P<breaking>{_BREAKING}){_ATTRIBUTES}/?>|</?(?:{_OTHER_TAGS}){_ATTRIBUTES}/?>"
    rf"|(?P<entity>&(?:#[0-9]{{1,7}}|#[xX][0-9a-fA-F]{{1,6}}|[A-Za-z][A-Za-z0-9]{{1,31}});|{_BARE})",
    re.I,
)
_BREAKS = re.compile(f"{LINE_BREAK} *(?:{LINE_BREAK} *)+")


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
    return rewritten(_BREAKS, lambda _: LINE_BREAK, text, log) if LINE_BREAK in text else text
