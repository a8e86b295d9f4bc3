"""Rules that run only when asked for, and rules that users write: before the built-in ones, on the joined text.

Like those they neither add nor remove a line break. Where a tag stands for one they put LINE_BREAK, which becomes one
when all of them have run. Their patterns are compiled when they are asked for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import get_args

from corpus_tools.cleaning.rules import SEPARATOR, Log, Rule, rewritten
from corpus_tools.documents import OptionalRule, OwnRule
from corpus_tools.errors import InputError

_SECONDS = 5.0  # for one of a user's patterns on a batch of articles


def _convert(orthography: OptionalRule) -> Callable[[str, Log], str]:
    """A rule that writes romanised words in an orthography, tone digits as diacritics."""
    from corpus_tools.cleaning.romanisation import WORD, converted, library

    library()  # if it is missing, that should be said before the work begins
    into = "poj" if orthography == "poj" else "tailo"

    def apply(text: str, log: Log) -> str:
        return rewritten(WORD, lambda match: converted(match[0], into), text, log)

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


def _optional(name: OptionalRule) -> Rule:
    """The rule of that name."""
    match name:
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
    "html", "pages", "contacts", "mask_contacts", "han_spaces", "tailo", "poj",
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
    return [_optional(name) for name in _ORDER if name in optional] + list(map(_own, own))
