"""A journal survives being cut off anywhere."""

import json
from pathlib import Path

import pytest

from taigi_lightning.evaluation.journal import journal_path, read_journal, resume_journals
from taigi_lightning.evaluation.predictions import Prediction

HEADER = {"base": "a", "questions": "b"}


def test_a_first_answer_that_was_torn_does_not_spoil_the_next(tmp_path: Path) -> None:
    output = tmp_path / "answers.csv"
    journal = journal_path(output, 0)
    journal.write_text(json.dumps(HEADER) + '\n[1, "12537", 2, [-1.0', encoding="utf-8")
    assert resume_journals(output, HEADER) == {}
    answer = Prediction(1, "12537", 2, (-1.0, -0.5, -2.0, -3.0), None, False)
    with journal.open("a", encoding="utf-8") as file:
        file.write(json.dumps(answer) + "\n")
    header, found = read_journal(journal)
    assert header == HEADER
    assert [p.answer for p in found.values()] == [2]


def test_an_old_journal_is_worth_a_word_only_for_its_answers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output = tmp_path / "answers.csv"
    journal = journal_path(output, 0)
    journal.write_text(json.dumps(HEADER) + "\n", encoding="utf-8")
    assert resume_journals(output, HEADER | {"base": "another"}) == {}
    assert not caplog.messages
    assert not list(tmp_path.iterdir())
    answer = Prediction(1, "12537", 2, (-1.0, -0.5, -2.0, -3.0), None, False)
    journal.write_text(f"{json.dumps(HEADER)}\n{json.dumps(answer)}\n", encoding="utf-8")
    assert resume_journals(output, HEADER | {"base": "another"}) == {}
    assert "1 answers of a run with another base" in caplog.text
    assert journal.with_name(journal.name + ".old").is_file()
