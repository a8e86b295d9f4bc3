"""Parts of a report's page: nothing unescaped, nothing of a passage lost."""

import re
from html import unescape

from taigi_lightning.reports.html_page import LONG_PASSAGE, bar, question_card, table, tiles
from taigi_lightning.tasks.questions import Question

OPTIONS = ("厝", "<市仔>", "海邊", "學校")


def text_of(page: str) -> str:
    return unescape(re.sub(r"<[^>]+>", "", page))


def test_a_long_passage_is_folded_and_whole() -> None:
    passage = "阿明去市仔。" * LONG_PASSAGE
    card = question_card(Question("7", passage, "去佗位？", OPTIONS, 2, 7), (0.1, 0.7, 0.1, 0.1), 2)
    assert "<details" in card
    shown = text_of(card).replace(f"… {len(passage):,} characters", "")
    assert passage in shown


def test_a_card_says_what_was_answered_and_what_is_right() -> None:
    question = Question("7", "阿明去市仔。", "去佗位？", OPTIONS, 2, 7)
    right = question_card(question, (0.1, 0.7, 0.1, 0.1), 2)
    wrong = question_card(question, (0.7, 0.1, 0.1, 0.1), 1)
    assert ">right<" in right
    assert "wrong, right is 2" in wrong
    assert "&lt;市仔&gt;" in right
    assert right.count("option chosen") == wrong.count("option chosen") == 1


def test_a_share_that_is_no_number_is_an_empty_bar() -> None:
    assert "width:0.0%" in bar("1", "厝", float("nan"), "-")


def test_names_and_values_are_escaped() -> None:
    assert "<b>" not in table([("<b>", "&")])
    assert "&lt;x&gt;" in tiles({"<x>": "1"})
