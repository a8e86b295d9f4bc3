"""Solved examples."""

from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerBase

from taigi_lightning.errors import InputError
from taigi_lightning.tasks.few_shot import solved_examples
from taigi_lightning.tasks.prompts import encode_prompt, encode_text, render_prompt
from taigi_lightning.tasks.questions import Question
from tests.taigi_lightning.question_csv import WITH_ANSWERS, write_csv

ASKED = [Question("1", "文章零", "問？", ("一", "二", "三", "四"), 1, 1)]


@pytest.fixture
def examples(tmp_path: Path) -> Path:
    """Seven passages, the first also asked about (but for its spaces), the last very long."""
    rows = [
        [f"文章 {number}" * (100 if row == 6 else 1), "問？", *"甲乙丙丁", row % 4 + 1]
        for row, number in enumerate("零一二三四五六")
    ]
    return write_csv(tmp_path / "AI_conv.csv", WITH_ANSWERS, rows)


def test_an_example_is_the_training_text_with_its_answer(
    examples: Path, tiny_tokenizer: PreTrainedTokenizerBase
) -> None:
    (solved,) = solved_examples(examples, ASKED, 1)
    prompt = encode_prompt(tiny_tokenizer, ASKED[0], 2048, [solved])
    text = f"{render_prompt(solved)}{solved.answer}\n\n{render_prompt(ASKED[0])}1"
    assert prompt.input_ids + prompt.answers[0] == encode_text(tiny_tokenizer, [text])[0]


def test_examples_avoid_the_passages_asked_about_and_long_ones(examples: Path) -> None:
    passages = [question.passage for question in solved_examples(examples, ASKED, 5)]
    assert len(passages) == 5
    assert "文章 零" not in passages
    assert not any("文章 六" in passage for passage in passages)


def test_more_examples_begin_with_the_fewer(examples: Path) -> None:
    assert solved_examples(examples, ASKED, 3)[:2] == solved_examples(examples, ASKED, 2)
    assert solved_examples(examples, ASKED, 0) == []


def test_too_few_examples_are_refused(examples: Path) -> None:
    with pytest.raises(InputError, match="has 5 passages fit for examples, and --shots asks for 9"):
        solved_examples(examples, ASKED, 9)
    with pytest.raises(InputError, match="Name their file with --examples"):
        solved_examples(None, ASKED, 1)
