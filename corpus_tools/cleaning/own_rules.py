"""Rules that users write: a pattern, what its matches become, and examples that prove it before the work begins."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import regex

from corpus_tools.cleaning.rules import LINE_BREAK, SEPARATOR, Log, Rule
from corpus_tools.documents import OwnRule
from corpus_tools.errors import InputError

_SECONDS = 5.0  # for one of a user's patterns on a batch of articles
_BETWEEN = re.compile(f"([{SEPARATOR}{LINE_BREAK}])")


def own_rule(rule: OwnRule) -> Rule:
    """The rule, its examples checked; ^ and $ stand for the beginning and the end of a line.

    Raises:
        InputError: The pattern is none, or an example proves it wrong.

    >>> own_rule(OwnRule("lone", "^[0-9]+$")).apply("1947\\n7 goeh8\\n12", [])
    '\\n7 goeh8\\n'
    """
    pattern = _checked(rule)

    def apply(text: str, log: Log) -> str:
        end = time.monotonic() + _SECONDS
        parts = _BETWEEN.split(text)  # articles, and what stands between them
        at = 0
        try:
            for place in range(0, len(parts), 2):
                part = parts[place]
                left = max(0.001, end - time.monotonic())
                parts[place] = pattern.sub(_change(rule, at, log), part, timeout=left)
                at += len(part) + 1
        except TimeoutError as error:
            raise InputError(
                f"own rule {rule.name}: {rule.pattern} takes more than {_SECONDS:.0f} s; make it simpler."
            ) from error
        return "".join(parts)

    return Rule(f"own_{rule.name}", apply)


def _checked(rule: OwnRule) -> regex.Pattern[str]:
    if not rule.name.strip():
        raise InputError(f"the own rule {rule.pattern} has no name; give it one for the report.")
    try:
        pattern = regex.compile(rule.pattern, regex.MULTILINE)
        if any(int(number) > pattern.groups for number in re.findall(r"\\([0-9]+)", rule.replacement)):
            raise IndexError(f"it has {pattern.groups} groups, its replacement {rule.replacement} wants more")
        for example in [*rule.matches, *rule.leaves]:
            if bool(pattern.search(example, timeout=_SECONDS)) != (example in rule.matches):
                found = "finds nothing in" if example in rule.matches else "finds something in"
                raise InputError(
                    f"own rule {rule.name}: {rule.pattern} {found} {example!r}; mend the pattern or the example."
                )
        if pattern.search(""):
            raise InputError(
                f"own rule {rule.name}: {rule.pattern} matches nothing at all, so everywhere; mend it."
            )
        # Where nothing matches, the replacement is not read: an empty alternative does.
        regex.compile(f"{rule.pattern}\n|").sub(rule.replacement, "")
    except TimeoutError as error:
        raise InputError(
            f"own rule {rule.name}: {rule.pattern} takes more than {_SECONDS:.0f} s on an example; make it simpler."
        ) from error
    except (regex.error, IndexError, KeyError) as error:
        raise InputError(f"own rule {rule.name}: {rule.pattern} is no pattern ({error}); mend it.") from error
    return pattern


def _change(rule: OwnRule, at: int, log: Log) -> Callable[[regex.Match[str]], str]:
    """What a match in the part of a text from `at` on becomes, logged."""

    def change(match: regex.Match[str]) -> str:
        new = match.expand(rule.replacement)
        if "\n" in match[0] or "\n" in new:
            raise InputError(f"own rule {rule.name}: it changes a line break; exclude \\n from the pattern.")
        if new != match[0]:
            log.append((at + match.start(), [match[0]]))
        return new

    return change
