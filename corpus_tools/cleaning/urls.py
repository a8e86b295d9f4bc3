"""Addresses in a text: only what may stand in one, for the text around them is often glued to them."""

from __future__ import annotations

import re

# RFC 3986's characters.
_ADDRESS = r"[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%]"
_URL = re.compile(
    rf"[hHwW](?:(?<=[hH])[tT]{{2}}[pP][sS]?://{_ADDRESS}*|(?<=[wW])[wW]{{2}}\.[A-Za-z0-9\-_~%]{_ADDRESS}*)"
)
# What every address has, in rare characters that the engine finds fast.
_SCHEME = re.compile("://(?:(?<=[hH][tT][tT][pP]://)|(?<=[hH][tT][tT][pP][sS]://))")
_WWW = re.compile(r"\.(?<=[wW][wW][wW]\.)")


def find_urls(text: str) -> list[tuple[int, int]]:
    """Where addresses with http://, https:// or www. start and end, in order.

    >>> text = "（看 HTTP://a.tw/b_(c)），www.d.tw."
    >>> [text[start:end] for start, end in find_urls(text)]
    ['HTTP://a.tw/b_(c)', 'www.d.tw']
    """
    starts = [m.start() - (5 if text[m.start() - 1] in "sS" else 4) for m in _SCHEME.finditer(text)]
    starts += [m.start() - 3 for m in _WWW.finditer(text)]
    spans, searched = [], 0
    for start in sorted(starts):
        match = _URL.match(text, start) if start >= searched else None
        if match is not None:
            searched = match.end()
            spans.append((start, start + _trimmed(match[0])))
    return spans


def _trimmed(address: str) -> int:
    """Length of the address without the marks of the sentence around it.

    A closing bracket belongs to the address if it opens there too.
    """
    end = len(address)
    while end:
        last = address[end - 1]
        unbalanced = last == ")" and address.count("(", 0, end) < address.count(")", 0, end)
        unbalanced |= last == "]" and address.count("[", 0, end) < address.count("]", 0, end)
        if (last not in ".,;:!?'" and not unbalanced) or address[:end].endswith("://"):
            break
        end -= 1
    return end
