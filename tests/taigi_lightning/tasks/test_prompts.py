import pickle
from dataclasses import replace
from typing import Any

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from taigi_lightning.errors import InputError
from taigi_lightning.tasks.prompts import (
    IGNORE,
    cut_middle,
    encode_example,
    encode_prompt,
    encode_text,
    render_prompt,
)
from taigi_lightning.tasks.questions import Question

PASSAGE = "阿明下晡欲去市仔買菜，伊毋知影按怎行。"
QUESTION = Question("1", PASSAGE, "阿明欲去佗位？", ("市仔", "學校", "厝--lìn", "海邊"), 3, 1)
PROMPT = """\
根據前文內容回答問題
前文：阿明下晡欲去市仔買菜，伊毋知影按怎行。
問題：阿明欲去佗位？
根據問題，從以下四個選項選出正確的選項編號(1-4)
選項1：市仔
選項2：學校
選項3：厝--lìn
選項4：海邊
答案："""


class SplittingTokenizer:
    """Text as code points, a digit as two tokens (an empty piece, then the digit), no BOS."""

    bos_token_id, eos_token_id, pad_token_id = None, 0, 1

    def __call__(self, texts: list[str], **_: Any) -> dict[str, list[list[int]]]:
        pieces = [text.replace("答案：", "答案：\x02") for text in texts]
        return {"input_ids": [[ord(letter) for letter in text] for text in pieces]}


class MergingTokenizer(SplittingTokenizer):
    """The colon before an answer and the answer are one token."""

    def __call__(self, texts: list[str], **_: Any) -> dict[str, list[list[int]]]:
        ids = [[ord(letter) for letter in text] for text in texts]
        return {
            "input_ids": [
                [*line[:-2], 10_000_000 + line[-1]] if text[-1] in "1234" else line
                for text, line in zip(texts, ids, strict=True)
            ]
        }


def test_the_prompt_byte_for_byte() -> None:
    assert render_prompt(QUESTION) == PROMPT


def test_an_example_is_prompt_answer_and_eos_encoded_together(
    tiny_tokenizer: PreTrainedTokenizerBase,
) -> None:
    example = encode_example(tiny_tokenizer, QUESTION, 2048)
    together = tiny_tokenizer(PROMPT + "3")["input_ids"]
    assert example.input_ids == [*together, tiny_tokenizer.eos_token_id]
    assert example.input_ids[0] == tiny_tokenizer.bos_token_id
    assert example.labels == [IGNORE] * (len(together) - 1) + [together[-1], tiny_tokenizer.eos_token_id]
    # Encoded alone, the answer would have begun with a piece that never follows `答案：`.
    assert tiny_tokenizer("3", add_special_tokens=False)["input_ids"] != [together[-1]]
    assert tiny_tokenizer.convert_ids_to_tokens([together[-1]]) == ["3"]


def test_everything_supervised_but_the_first_token(tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    example = encode_example(tiny_tokenizer, QUESTION, 2048, "everything")
    assert example.labels == [IGNORE, *example.input_ids[1:]]


@pytest.mark.parametrize("max_length", [2048, 100])
def test_prediction_sees_what_training_saw(tiny_tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
    question = replace(QUESTION, passage=PASSAGE * 20)
    prompt = encode_prompt(tiny_tokenizer, question, max_length)
    for answer in (1, 2, 3, 4):
        example = encode_example(tiny_tokenizer, replace(question, answer=answer), max_length)
        assert example.input_ids == [
            *prompt.input_ids,
            *prompt.answers[answer - 1],
            tiny_tokenizer.eos_token_id,
        ]
        assert example.cut_characters == prompt.cut_characters
    assert encode_prompt(tiny_tokenizer, replace(question, answer=None), max_length) == prompt


@pytest.mark.parametrize("tokenizer", [SplittingTokenizer(), MergingTokenizer()])
def test_however_the_digit_is_tokenised(tokenizer: Any) -> None:
    prompt = encode_prompt(tokenizer, QUESTION, 2048)
    for number, answer in enumerate(prompt.answers, start=1):
        assert [*prompt.input_ids, *answer] == tokenizer([f"{PROMPT}{number}"])["input_ids"][0]
        assert len(answer) == 1


def test_a_tokenizer_that_adds_eos_gets_one_eos(tiny_tokenizer_dir: Any) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer_dir, add_eos_token=True)
    assert tokenizer("甲")["input_ids"][-1] == tokenizer.eos_token_id  # or this test shows nothing
    assert encode_example(tokenizer, QUESTION, 2048).input_ids.count(tokenizer.eos_token_id) == 1


def test_special_tokens_written_in_a_passage_stay_text(tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    ids = encode_text(tiny_tokenizer, ["甲</s>乙<pad>"])[0]
    assert not {tiny_tokenizer.eos_token_id, tiny_tokenizer.pad_token_id} & set(ids)


def test_a_long_passage_loses_its_middle_and_nothing_else(tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    middle = "早起時仔，阿母佇灶跤煮糜。" * 700
    question = replace(QUESTION, passage=f"起頭{middle}尾溜")
    assert len(question.passage) > 9_000
    example = encode_example(tiny_tokenizer, question, 256)
    text = tiny_tokenizer.decode(example.input_ids)
    assert len(example.input_ids) <= 256
    assert "前文：起頭" in text
    assert "尾溜\n" + PROMPT.split("\n", 2)[2] + "3" in text
    kept = len(text.split("前文：")[1].split("\n")[0])
    assert example.cut_characters == len(question.passage) - kept
    one_more = replace(question, passage=cut_middle(question.passage, kept + 1))
    assert len(encode_example(tiny_tokenizer, one_more, 2048).input_ids) > 256  # no more was cut than needed


def test_an_example_of_exactly_max_length_is_not_cut(tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    length = len(encode_example(tiny_tokenizer, QUESTION, 2048).input_ids)
    assert encode_example(tiny_tokenizer, QUESTION, length).cut_characters == 0
    assert encode_example(tiny_tokenizer, QUESTION, length - 1).cut_characters > 0


def test_options_too_long_for_max_length_are_refused(tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(
        InputError, match=r"Question 1 \(row 1\) is longer than max_length=64 tokens even without"
    ):
        encode_example(tiny_tokenizer, replace(QUESTION, options=("長" * 99, "", "", "")), 64)


def test_training_needs_an_answer(tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(InputError, match="has no answer to train on"):
        encode_example(tiny_tokenizer, replace(QUESTION, answer=None), 2048)


@settings(deadline=None, max_examples=200)
@given(st.text(alphabet="aón\u030d\u0358\u0304阿𨑨-", max_size=30), st.integers(0, 30))
def test_cutting_never_parts_a_letter_from_its_marks(text: str, kept: int) -> None:
    cut = cut_middle(text, kept)
    assert len(cut) <= kept or cut == text
    letters = regex.findall(r".\p{Mn}*", text, regex.DOTALL)
    remaining = regex.findall(r".\p{Mn}*", cut, regex.DOTALL)
    head = next(
        (i for i, (a, b) in enumerate(zip(letters, remaining, strict=False)) if a != b), len(remaining)
    )
    assert remaining == letters[:head] + letters[len(letters) - (len(remaining) - head) :]


def test_questions_and_prompts_survive_worker_processes(tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    prompt = encode_prompt(tiny_tokenizer, QUESTION, 2048)
    assert pickle.loads(pickle.dumps((QUESTION, prompt))) == (QUESTION, prompt)
