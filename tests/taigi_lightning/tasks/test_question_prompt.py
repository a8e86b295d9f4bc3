"""Any wording, 2 to 10 options, digits or letters: written out, read, answered and scored as one task."""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

from taigi_lightning.data.predict import encode_questions
from taigi_lightning.data.sft import SFTDataModule
from taigi_lightning.errors import InputError
from taigi_lightning.evaluation.answers import predict_batch
from taigi_lightning.evaluation.prediction_writer import write_predictions
from taigi_lightning.evaluation.scoring import read_answers, score
from taigi_lightning.tasks.prompts import encode_prompt, render_prompt
from taigi_lightning.tasks.question_batches import plan_batches
from taigi_lightning.tasks.question_prompt import FOUR_CHOICE, LABELS, QuestionPrompt
from taigi_lightning.tasks.questions import Question, read_questions

THREE = QuestionPrompt(
    text="{passage}\n\n{question}\n{options}Answer: ",
    option="{label}. {option}\n",
    options=3,
    labels="letters",
)


def write(path: Path, options: int, answers: list[str]) -> Path:
    header = ["ID", "文章", "問題", *(f"選項{n}" for n in range(1, options + 1)), "正確答案"]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for number, answer in enumerate(answers):
            writer.writerow(
                [f"q{number}", f"文{number}", "佗位？", *(f"選{n}" for n in range(options)), answer]
            )
    return path


def test_the_default_is_the_tasks_own_wording() -> None:
    question = Question("1", "文", "問？", ("一", "二", "三", "四"), 1, 1)
    assert render_prompt(question) == FOUR_CHOICE.render(question)
    assert FOUR_CHOICE.answers == ("1", "2", "3", "4")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"options": 2}, "從以下兩個選項選出正確的選項編號(1-2)"),
        ({"options": 3, "labels": "letters"}, "從以下三個選項選出正確的選項代號(A-C)"),
        ({"options": 10}, "從以下十個選項選出正確的選項編號(1-10)"),
        ({"labels": "letters"}, "從以下四個選項選出正確的選項代號(A-D)"),
        (
            {"options": 3, "text": "四個選項選出正確的選項編號(1-4){question}{options}"},
            "四個選項選出正確的選項編號(1-4)",
        ),
    ],
)
def test_the_default_says_how_many_options_there_are_and_their_names(
    settings: dict[str, Any], said: str
) -> None:
    prompt = QuestionPrompt(**settings)
    assert said in prompt.text
    assert QuestionPrompt(prompt.text, prompt.option, prompt.options, prompt.labels) == prompt


@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("count", range(2, 11))
def test_any_number_of_options_is_read_and_its_answers_told_apart(
    tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerBase, count: int, labels: Any
) -> None:
    prompt = QuestionPrompt(options=count, labels=labels)
    named = [*prompt.answers, *(str(n + 1) for n in range(count))]  # numbers will do for letters
    questions = read_questions(write(tmp_path / "q.csv", count, named), need_answers=True, prompt=prompt)
    assert [question.answer for question in questions] == [*range(1, count + 1)] * 2
    encoded = encode_questions(tiny_tokenizer, questions[:1], 2048, range(count), style=prompt)
    assert len(encoded) == count
    for answer, ids in zip(prompt.answers, encoded[0].answers, strict=True):
        text = tiny_tokenizer.decode([*encoded[0].prompt, *ids], skip_special_tokens=True)
        assert text.endswith(f"答案：{answer}")


def test_a_question_is_answered_whatever_the_order_of_its_options(
    tmp_path: Path, tiny_llama_dir: Path, tiny_tokenizer: PreTrainedTokenizerBase
) -> None:
    questions = read_questions(write(tmp_path / "q.csv", 3, ["A", "C", "B"]), need_answers=True, prompt=THREE)
    model = AutoModelForCausalLM.from_pretrained(tiny_llama_dir, dtype=torch.float32).eval()
    encoded = encode_questions(tiny_tokenizer, questions, 2048, (0, 1, 2), style=THREE)
    predictions = [
        p
        for batch in plan_batches(encoded, 4096)
        for p in predict_batch(model, tiny_tokenizer, batch, "choice")
    ]
    assert {len(p.log_probabilities or ()) for p in predictions} == {3}
    output = tmp_path / "answers.csv"
    write_predictions(output, sorted(predictions, key=lambda p: (p.row, p.rotation)))
    rows = list(csv.DictReader(output.open(encoding="utf-8")))
    assert [row["ID"] for row in rows] == ["q0", "q1", "q2"] and {row["Answer"] for row in rows} <= set("ABC")
    details = list(csv.DictReader((tmp_path / "answers.probabilities.csv").open(encoding="utf-8")))
    assert [name for name in details[0] if name.startswith("Probability")] == [
        f"Probability{n}" for n in (1, 2, 3)
    ]
    assert all(len(row["AnswerByOrder"]) == 3 for row in details)
    result = score(read_answers(output, THREE), read_answers(tmp_path / "q.csv", THREE), options=3)
    assert result.total == 3 and len(result.confusion) == 3


def test_training_supervises_the_letter(tmp_path: Path, tiny_llama_dir: Path, tiny_tokenizer: Any) -> None:
    path = write(tmp_path / "q.csv", 3, ["A", "C", "B", "A"])
    data = SFTDataModule(str(path), str(tiny_llama_dir), validation_fraction=0, prompt=THREE)
    data.setup("fit")
    labels = [batch["labels"] for batch in data.train_dataloader()]
    taught = [
        tiny_tokenizer.decode(row[row != -100], skip_special_tokens=True) for batch in labels for row in batch
    ]
    assert sorted(text.strip() for text in taught) == ["A", "A", "B", "C"]


def test_ten_digits_are_told_apart_by_what_ends_an_answer(tiny_tokenizer: Any) -> None:
    question = Question("1", "文", "問？", tuple("一二三四五六七八九十"), 1, 1)
    prompt = encode_prompt(tiny_tokenizer, question, 2048, style=QuestionPrompt(options=10))
    assert len({tuple(ids) for ids in prompt.answers}) == 10
    assert not any(one != two and two[: len(one)] == one for one in prompt.answers for two in prompt.answers)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"options": 1}, "Questions have 2 to 10 options"),
        ({"options": 11}, "Questions have 2 to 10 options"),
        ({"labels": "roman"}, "Use digits or letters"),
        ({"text": "{question}"}, r"text lacks \{options\}"),
        ({"text": "{question}{options}{pasage}"}, r"asks for \{pasage\}.*found passage, question, options"),
        ({"option": "{label}"}, r"option lacks \{option\}"),
        ({"text": "{question}{options}{"}, "Single '{'"),
    ],
)
def test_what_is_no_prompt_is_refused_at_once(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        QuestionPrompt(**settings)


def test_a_file_of_fewer_options_is_told_how_to_say_so(tmp_path: Path) -> None:
    path = write(tmp_path / "q.csv", 2, ["1"])
    with pytest.raises(InputError, match=r"no column 選項3, 選項4.*have 2 options, say so: prompt.options 2"):
        read_questions(path, need_answers=True)


def test_an_answer_that_is_no_option_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"row 1 .* the answer is 'D'. Write A, B or C"):
        read_questions(write(tmp_path / "q.csv", 3, ["D"]), need_answers=True, prompt=THREE)
