"""Rules that run only when asked for, and rules that users write: before the built-in ones, on the joined text.

Like those they neither add nor remove a line break. Where a tag stands for one they put LINE_BREAK, which becomes one
when all of them have run. Their patterns are compiled when they are asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import get_args

from corpus_tools.cleaning.rules import Log, Rule, rewritten
from corpus_tools.documents import OptionalRule, OwnRule
from corpus_tools.errors import InputError


def _convert(orthography: OptionalRule) -> Callable[[str, Log], str]:
    """A rule that writes romanised words in an orthography, tone digits as diacritics."""
    from corpus_tools.cleaning.romanisation import WORD, converted, library

    library()  # if it is missing, that should be said before the work begins
    into = "poj" if orthography == "poj" else "tailo"

    def apply(text: str, log: Log) -> str:
        return rewritten(WORD, lambda match: converted(match[0], into), text, log)

    return apply


def _optional(name: OptionalRule) -> Rule:
    """The rule of that name."""
    match name:
        case "mojibake":
            from corpus_tools.cleaning.mojibake import library, repair

            library()  # if it is missing, that should be said before the work begins
            return Rule("mojibake", repair)
        case "html":
            from corpus_tools.cleaning.markup import remove_markup

            return Rule("html", remove_markup, repeats=True)  # pages escape markup, and escape it again
        case "pages":
            from corpus_tools.cleaning.page_marks import remove_page_marks

            return Rule("pages", remove_page_marks)
        case "contacts" | "mask_contacts":
            from corpus_tools.cleaning.contacts import mask_contacts, remove_contacts

            return Rule("contacts", remove_contacts if name == "contacts" else mask_contacts)
        case "han_spaces":
            from corpus_tools.cleaning.han_spaces import close_han

            return Rule("han_spaces", close_han)
        case "tailo" | "poj":
            return Rule(name, _convert(name))


_ORDER: tuple[OptionalRule, ...] = (
    "mojibake", "html", "pages", "contacts", "mask_contacts", "han_spaces", "tailo", "poj",
)  # fmt: skip


def extra_rules(optional: Sequence[OptionalRule], own: Sequence[OwnRule]) -> list[Rule]:
    """The optional rules asked for in their order, then the user's own in theirs.

    Raises:
        InputError: A rule does not exist, or an own one is wrong.
    """
    if unknown := sorted(set(optional) - set(_ORDER)):
        known = ", ".join(get_args(OptionalRule))
        raise InputError(f"there is no optional rule {', '.join(unknown)}; there are {known}.")
    names = [rule.name for rule in own]
    if len(set(names)) < len(names):
        raise InputError(f"own rules share a name: {', '.join(names)}; give each its own.")
    found = [_optional(name) for name in _ORDER if name in optional]
    if own:
        from corpus_tools.cleaning.own_rules import own_rule  # its library takes a while to load

        found += map(own_rule, own)
    return found
