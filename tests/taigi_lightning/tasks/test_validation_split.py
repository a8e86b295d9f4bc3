from dataclasses import replace

import pytest

from taigi_lightning.errors import InputError
from taigi_lightning.tasks.questions import Question
from taigi_lightning.tasks.validation_split import split_by_passage


def questions(count: int, passages: int) -> list[Question]:
    return [
        Question(str(i), f"第{i % passages}篇。", f"題{i}？", ("一", "二", "三", "四"), 1, i + 1)
        for i in range(count)
    ]


def test_a_passage_is_never_on_both_sides() -> None:
    every = questions(100, 30)
    every[40] = replace(every[40], passage=" " + every[40].passage + "\n")  # white space makes no new passage
    train, held_out = split_by_passage(every, 0.2)
    assert sorted([*train, *held_out], key=lambda q: q.row) == every
    assert not {q.passage.strip() for q in train} & {q.passage.strip() for q in held_out}
    assert 20 <= len(held_out) < 25
    assert [q.row for q in train] == sorted(q.row for q in train)


def test_what_is_held_out_depends_on_the_text_alone() -> None:
    every = questions(100, 100)
    held_out = split_by_passage(every, 0.1)[1]
    assert len(held_out) == 10
    assert {q.passage for q in split_by_passage(every[::-1], 0.1)[1]} == {q.passage for q in held_out}


def test_nothing_or_a_little_may_be_asked_for() -> None:
    assert split_by_passage(questions(5, 5), 0.0) == (questions(5, 5), [])
    assert len(split_by_passage(questions(5, 5), 0.01)[1]) == 1
    with pytest.raises(InputError, match="leaves none to train on"):
        split_by_passage(questions(2, 2), 0.99)
    with pytest.raises(InputError, match="All questions share one passage"):
        split_by_passage(questions(5, 1), 0.1)
