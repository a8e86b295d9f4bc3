"""The one error a user of corpus_tools is meant to see, and what may be shown of foreign text."""

import unicodedata


class InputError(ValueError):
    """Input that cannot be used: the message says what was found, what was wanted and what to do."""


def printable(text: str) -> str:
    r"""Text for a terminal: what could move its cursor, change its colours or hide text becomes an escape.

    >>> print(printable("a\x1b[31m.json"), printable("阮\u202e佇"), printable("Lí hó"))
    a\x1b[31m.json 阮\u202e佇 Lí hó
    """
    if text.isprintable():
        return text
    return "".join(
        c.encode("unicode_escape").decode()
        if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")
        else c
        for c in text
    )
