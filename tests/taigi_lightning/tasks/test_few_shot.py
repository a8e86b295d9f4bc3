"""Solved examples."""

import csv
from pathlib import Path

import pytest

from taigi_lightning.errors import InputError
from taigi_lightning.tasks.few_shot import example_preamble
from taigi_lightning.tasks.questions import Question

ASKED = [Question("1", "文章零", "問？", ("一", "二", "三", "四"), 1, 1)]


@pytest.fixture
def examples(tmp_path: Path) -> Path:
    """Seven passages, the first also asked about (but for its spaces), the last very long."""
    path = tmp_path / "AI_conv.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["文章", "問題", "選項1", "選項2", "選項3", "選項4", "正確答案"])
        for row, number in enumerate("零一二三四五六"):
            writer.writerow(
                [f"文章 {number}" * (100 if row == 6 else 1), "問？", "甲", "乙", "丙", "丁", row % 4 + 1]
            )
    return path


def test_an_example_is_the_training_text_with_its_answer(examples: Path) -> None:
    preamble = example_preamble(examples, ASKED, 1)
    assert preamble.startswith("根據前文內容回答問題\n前文：文章 ")
    assert preamble[-6:-3] == "答案："
    assert preamble[-3] in "1234"
    assert preamble.endswith("\n\n")


def test_examples_avoid_the_passages_asked_about_and_long_ones(examples: Path) -> None:
    preamble = example_preamble(examples, ASKED, 5)
    assert preamble.count("答案：") == 5
    assert "文章 零" not in preamble
    assert "文章 六" not in preamble


def test_more_examples_begin_with_the_fewer(examples: Path) -> None:
    assert example_preamble(examples, ASKED, 3).startswith(example_preamble(examples, ASKED, 2))
    assert example_preamble(examples, ASKED, 0) == ""


def test_too_few_examples_are_refused(examples: Path) -> None:
    with pytest.raises(InputError, match="has 5 passages fit for examples, and --shots asks for 9"):
        example_preamble(examples, ASKED, 9)
    with pytest.raises(InputError, match="Name their file with --examples"):
        example_preamble(None, ASKED, 1)
