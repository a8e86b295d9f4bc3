"""Optional and own rules: refused before the work begins if they are wrong, and they never change a line's number."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus_tools.cleaning.optional_rules import extra_rules
from corpus_tools.cleaning.rules import Log
from corpus_tools.documents import OptionalRule, OwnRule
from corpus_tools.errors import InputError
from tests.corpus_tools.cleaning.test_rules import TEXT

PIECES = [
    "<br>",
    "</p>",
    "<b>",
    "&lt;",
    "&#10;",
    "&nbsp;",
    "<",
    ">",
    "PAGE 3",
    "21",
    "a.indd 7 2020/1/2 9:00",
]
WORDS = ["a@b.tw", "06-2757575", "春 天", "Tai5-lam5", "chia\u030dh", "goeh8--e5", "Ng2", "street", " "]
MARKED_UP = st.lists(st.one_of(TEXT, st.sampled_from([*PIECES, *WORDS]))).map("".join)
NAMES: list[OptionalRule] = ["html", "pages", "han_spaces", "contacts", "mask_contacts", "tailo", "poj"]


@settings(max_examples=200, deadline=None)
@given(MARKED_UP, st.sampled_from(NAMES))
def test_no_rule_adds_or_removes_a_line_break_and_each_logs_what_it_changes(
    text: str, name: OptionalRule
) -> None:
    (rule,) = extra_rules([name], [])
    log: Log = []
    after = rule.apply(text, log)
    assert after.count("\n") == text.count("\n")
    assert bool(log) == (after != text)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (OwnRule("a", "("), "is no pattern"),
        (OwnRule("a", "x", r"\2"), "is no pattern"),
        (OwnRule("a", "x*"), "matches nothing at all"),
        (OwnRule("a", "x", matches=["y"]), "finds nothing in 'y'"),
        (OwnRule("a", "x", leaves=["xy"]), "finds something in 'xy'"),
    ],
)
def test_a_wrong_rule_is_refused_before_the_work_begins(rule: OwnRule, message: str) -> None:
    with pytest.raises(InputError, match=message):
        extra_rules([], [rule])


def test_names_are_checked() -> None:
    with pytest.raises(InputError, match=r"no optional rule htlm; there are html, pages"):
        extra_rules(["htlm"], [])  # type: ignore[list-item]
    with pytest.raises(InputError, match="share a name"):
        extra_rules([], [OwnRule("a", "x"), OwnRule("a", "y")])


@pytest.mark.parametrize("text", ["a\nb", "ab\n"])
def test_a_rule_that_changes_a_line_break_stops_the_run(text: str) -> None:
    (rule,) = extra_rules([], [OwnRule("all", r"(?s).+")])
    with pytest.raises(InputError, match="changes a line break"):
        rule.apply(text, [])
