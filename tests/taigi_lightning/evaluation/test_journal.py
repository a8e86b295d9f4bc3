"""A journal survives being cut off anywhere."""

import json
from pathlib import Path

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
