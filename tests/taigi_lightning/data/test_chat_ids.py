"""The same question has the same ids in training, validation, prediction and comparison: those of the chat template."""

import csv
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from taigi_lightning.data.predict import PredictDataModule, encode_questions
from taigi_lightning.data.sft import SFTDataModule
from taigi_lightning.tasks.prompts import render_prompt
from taigi_lightning.tasks.questions import Question, read_questions
from tests.taigi_lightning.tasks.test_chat_template import TEMPLATES, TINY

NAMES = ["ID", "文章", "問題", "選項1", "選項2", "選項3", "選項4", "正確答案"]


@pytest.fixture(params=TEMPLATES)
def base(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder with a tokenizer that has one of the templates."""
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<turn>", "<end>"]})
    tokenizer.chat_template = TEMPLATES[request.param]
    tokenizer.save_pretrained(tmp_path / "base")
    config = (TINY / "config.json").read_text(encoding="utf-8")
    (tmp_path / "base" / "config.json").write_text(config.replace('"vocab_size": 1280', '"vocab_size": 1290'))
    return tmp_path / "base"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Six questions, each on a passage of its own."""
    path = tmp_path / "questions.csv"
    with path.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(NAMES)
        for n in range(6):
            writer.writerow([n, f"阿明去市仔{n}。", "去佗位？", "市仔", "厝", "山", "海", n % 4 + 1])
    return path


def conversation(tokenizer: PreTrainedTokenizerBase, *solved: tuple[Question, int]) -> list[int]:
    """The template's own ids of questions and answers."""
    messages = []
    for question, answer in solved:
        messages.append({"role": "user", "content": render_prompt(question)})
        messages.append({"role": "assistant", "content": str(answer)})
    ids: list[int] = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)
    return ids


def test_every_stage_asks_with_the_templates_own_ids(base: Path, file: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base)
    questions = read_questions(file, need_answers=True)
    wanted = [conversation(tokenizer, (question, question.answer or 0)) for question in questions]
    sft = SFTDataModule(str(file), str(base), chat_template=True, validation_file=str(file))
    sft.setup("fit")
    for split in sft.splits.values():
        blocks = split.blocks
        assert [blocks[row]["input_ids"].tolist() for row in range(len(blocks))] == wanted
    predict = PredictDataModule(file, str(base), chat_template=True)
    predict.setup("predict")
    shown = encode_questions(tokenizer, questions[1:], 2048, examples=questions[:1], chat_template=True)
    for asked in (*sft.held_out, *predict.encoded):
        question = questions[asked.row - 1]
        for answer, ids in enumerate(asked.answers, start=1):
            whole = conversation(tokenizer, (question, answer))
            assert whole[: len(asked.prompt) + len(ids)] == asked.prompt + ids
    for asked in shown:  # as `compare` asks after a solved example
        question = questions[asked.row - 1]
        for answer, ids in enumerate(asked.answers, start=1):
            whole = conversation(tokenizer, (questions[0], questions[0].answer or 0), (question, answer))
            assert whole[: len(asked.prompt) + len(ids)] == asked.prompt + ids
