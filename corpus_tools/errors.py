"""The one error a user of corpus_tools is meant to see, and what may be shown of foreign text."""

import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager


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


@contextmanager
def optional_import(library: str, extra: str, wanted_for: str) -> Iterator[None]:
    """Around the import of a library that plain `pip install .` does not bring: where it is missing, say what does.

    Raises:
        InputError: The library is not installed.
    """
    try:
        yield
    except ImportError as error:
        raise InputError(
            f"{wanted_for} needs {library}; install it with: pip install '.[{extra}]'."
        ) from error
