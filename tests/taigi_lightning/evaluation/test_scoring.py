"""Accuracy and what surrounds it."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taigi_lightning.errors import InputError
from taigi_lightning.evaluation.scoring import (
    compare,
    mcnemar,
    position_bias,
    read_answers,
    score,
    score_command,
    wilson_interval,
)

RIGHT = [("a", 1), ("b", 2), ("c", 3), ("d", 4), ("e", 1)]
GIVEN = [("e", 2), ("a", 1), ("b", 2), ("c", 3), ("d", 1)]


def test_a_score_by_hand() -> None:
    result = score(GIVEN, RIGHT)
    assert (result.correct, result.total, result.accuracy) == (3, 5, 0.6)
    assert result.confusion == ((1, 1, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (1, 0, 0, 0))
    assert result.expected == (2, 1, 1, 1)
    assert result.predicted == (2, 2, 1, 0)


def test_wilson_as_published() -> None:
    """Newcombe 1998, table I, method 3: 81 of 263 and 0 of 20."""
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)


@given(st.integers(1, 2000), st.data())
def test_wilson_contains_the_share(total: int, data: st.DataObject) -> None:
    correct = data.draw(st.integers(0, total))
    low, high = wilson_interval(correct, total)
    assert 0 <= low <= correct / total + 1e-12
    assert correct / total - 1e-12 <= high <= 1


def test_mcnemar_by_counting_every_case() -> None:
    """Of 2^6 equally likely splits of six disagreements, 14 are at least as uneven as 1 to 5."""
    uneven = sum(abs(2 * case.bit_count() - 6) >= 4 for case in range(64))
    assert mcnemar(1, 5) == pytest.approx(uneven / 64)


def test_mcnemar_of_many_disagreements_does_not_overflow() -> None:
    assert 0 < mcnemar(2400, 2600) < 0.01
    assert mcnemar(0, 5000) == 0.0


def test_comparing_two_files_counts_only_disagreements() -> None:
    other = [("a", 2), ("b", 2), ("c", 1), ("d", 4), ("e", 1)]
    found = compare(GIVEN, other, RIGHT)
    assert (found.only_first, found.only_second) == (2, 2)
    assert found.p_value == 1.0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (GIVEN[:-1], r"1 ID \(d\) missing from the predictions"),
        ([*GIVEN, ("x", 1), ("y", 1)], r"2 IDs \(x, y\) in the predictions but not among the answers"),
        ([*GIVEN, ("a", 2)], r"1 ID \(a\) more than once in the predictions"),
        ([*GIVEN[:-1], ("a", 2), ("x", 1)], r"\(a\) more than .*; .*\(d\) missing .*; .*\(x\) in"),
    ],
)
def test_ids_at_fault_are_named(given: list[tuple[str, int]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        score(given, RIGHT)


def test_position_bias_of_the_unbiased_and_of_the_blind() -> None:
    assert position_bias(["1111", "3333"]) == {
        "follows": 1.0,
        **{f"position_{place}": 0.25 for place in (1, 2, 3, 4)},
    }
    always_third = position_bias(["3412"])  # rotated by 0, 1, 2, 3 the third place shows 3, 4, 1, 2
    assert (always_third["follows"], always_third["position_3"]) == (0.0, 1.0)


# ---- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_predictions_and_answers_as_people_write_them(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "answers.csv"
    path.write_text('ID,Answer\r\n7,１\r\n"8", 2 \r\n', encoding=encoding)
    assert read_answers(path) == [("7", 1), ("8", 2)]


def test_answers_from_a_training_file(tmp_path: Path) -> None:
    path = tmp_path / "questions.csv"
    path.write_text("文章,問題,選項1,選項2,選項3,選項4,正確答案\n文,問？,一,二,三,四,３\n", encoding="utf-8")
    assert read_answers(path) == [("1", 3)]


def test_an_answer_out_of_range_is_named_with_its_row(tmp_path: Path) -> None:
    path = tmp_path / "answers.csv"
    path.write_text("ID,Answer\n7,1\n8,5\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"row 2 \(line 3\): the answer is '5'"):
        read_answers(path)


def test_the_command_prints_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {}
    for name, pairs in {"given": GIVEN, "right": RIGHT, "other": RIGHT}.items():
        files[name] = tmp_path / f"{name}.csv"
        files[name].write_text("ID,Answer\n" + "".join(f"{i},{a}\n" for i, a in pairs))
    score_command(
        files["given"], files["right"], against=files["other"], json=tmp_path / "new" / "score.json"
    )
    printed = " ".join(capsys.readouterr().out.split())
    assert "3 of 5 correct: 60.0%" in printed
    assert "McNemar's exact p = 0.5" in printed
    figures = json.loads((tmp_path / "new" / "score.json").read_text())
    assert figures["accuracy"] == 0.6
    assert figures["against"]["accuracy"] == 1.0


def test_of_two_files_the_one_at_fault_is_named(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("given.csv", "other.csv", "right.csv")]
    for file, ids in zip(files, ("ab", "ac", "ab"), strict=True):
        file.write_text("ID,Answer\n" + "".join(f"{i},1\n" for i in ids))
    with pytest.raises(InputError, match=r"\(b\) missing from .*other\.csv; .*\(c\) in .*other\.csv but not"):
        score_command(files[0], files[2], against=files[1])


def test_scoring_loads_neither_torch_nor_lightning() -> None:
    heavy = "{'torch', 'lightning', 'transformers', 'pandas'}"
    code = f"import sys, taigi_lightning.evaluation.scoring; print(sorted({heavy} & {{*sys.modules}}))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_chance_scores_about_a_quarter() -> None:
    draw = random.Random(9527)
    right = [(str(n), draw.randint(1, 4)) for n in range(4000)]
    low, high = score([(i, draw.randint(1, 4)) for i, _ in right], right).interval
    assert low < 0.25 < high
