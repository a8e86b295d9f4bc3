"""Parts of a report's page: nothing of a passage lost, no share drawn that is none."""

import math

import pytest

from taigi_lightning.reports.html_page import LONG_PASSAGE, bar, origins, question_card
from taigi_lightning.tasks.questions import Question

OPTIONS = ("厝", "<市仔>", "海邊", "學校")


@pytest.mark.parametrize("length", [0, LONG_PASSAGE, LONG_PASSAGE + 1, 5000])
def test_a_long_passage_is_folded_and_whole(length: int) -> None:
    passage = ("阿明去市仔。" * 1000)[:length]
    card = question_card(Question("7", passage, "去佗位？", OPTIONS, 2, 7), (0.1, 0.7, 0.1, 0.1), 2)
    assert card.start + card.rest == passage
    assert bool(card.rest) == (length > LONG_PASSAGE)


def test_a_card_says_what_was_answered_and_what_is_correct() -> None:
    question = Question("7", "阿明去市仔。", "去佗位？", OPTIONS, 2, 7)
    card = question_card(question, (0.7, 0.1, 0.1, 0.1), 1)
    assert [option.kind for option in card.options] == ["chosen", "other", "other", "other"]
    assert [option.correct for option in card.options] == [False, True, False, False]
    assert (card.answer, card.correct) == (1, 2)


@pytest.mark.parametrize(("share", "drawn"), [(math.nan, 0), (-1, 0), (0.25, 0.25), (7, 1), (math.inf, 0)])
def test_a_bar_is_as_wide_as_a_share_can_be(share: float, drawn: float) -> None:
    assert bar("厝", share, "-").share == drawn


def test_a_page_names_what_is_known_and_the_date() -> None:
    named = origins({"model": "models/a", "adapter": None, "data": ""}, 0, "ended")
    assert named == {"model": "models/a", "ended": "1970-01-01 00:00 UTC"}
