"""Question files into batches: encoded once, shared out over the ranks."""

import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from taigi_lightning.data.predict import PredictDataModule, encode_questions
from taigi_lightning.errors import InputError
from taigi_lightning.tasks.prompts import render_prompt
from taigi_lightning.tasks.questions import Question
from tests.taigi_lightning.question_csv import TO_ANSWER, write_csv

PASSAGES = ["阿明下晡欲去市仔買菜。\n伊毋知影按怎行。", "早起時仔，阿母佇灶跤煮糜。" * 4, "阮兜蹛佇台南。"]


@pytest.fixture
def test_file(tmp_path: Path) -> Path:
    """Twelve questions as a test file has them: BOM, quoted newlines, an empty option, equal options."""
    last = {3: "", 5: "學校"}
    rows = [
        [f"{n}2537", PASSAGES[n % 3], f"第{n}个問題？", "市仔", "學校", f"厝{n}", last.get(n, "海邊")]
        for n in range(12)
    ]
    return write_csv(tmp_path / "questions.csv", TO_ANSWER, rows, "utf-8-sig")


def data_module(
    path: Path, tokenizer: Path, rank: int = 0, ranks: int = 1, **options: object
) -> PredictDataModule:
    data = PredictDataModule(path, str(tokenizer), **options)  # type: ignore[arg-type]
    data.trainer = SimpleNamespace(global_rank=rank, world_size=ranks)  # type: ignore[assignment]
    data.setup("predict")
    return data


@pytest.mark.parametrize("ranks", [1, 2, 3, 20])
def test_every_question_goes_to_exactly_one_rank(test_file: Path, tiny_llama_dir: Path, ranks: int) -> None:
    seen = [
        question.id
        for rank in range(ranks)
        for batch in data_module(
            test_file, tiny_llama_dir, rank, ranks, batch_tokens=400
        ).predict_dataloader()
        for question in batch.questions
    ]
    assert sorted(seen) == sorted(f"{row}2537" for row in range(12))


def test_what_is_answered_is_not_asked_again(test_file: Path, tiny_llama_dir: Path) -> None:
    data = data_module(test_file, tiny_llama_dir)
    data.answered = frozenset({(1, 0), (4, 0)})
    rows = [question.row for batch in data.predict_dataloader() for question in batch.questions]
    assert sorted(rows) == [2, 3, *range(5, 13)]


def test_lightning_runs_the_loop_even_when_everything_is_answered(
    test_file: Path, tiny_llama_dir: Path
) -> None:
    data = data_module(test_file, tiny_llama_dir)
    data.answered = frozenset((row, 0) for row in range(1, 13))
    loader = data.predict_dataloader()
    assert len(loader) == 1
    assert list(loader) == []


def test_the_prompt_is_the_one_of_training(test_file: Path, tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    question = Question("7", PASSAGES[0], "去佗位？", ("市仔", "", "厝", "厝"), 2, 1)
    encoded = encode_questions(tiny_tokenizer, [question], max_length=2048)[0]
    for answer, digit in zip(encoded.answers, "1234", strict=True):
        assert encoded.prompt + answer == tiny_tokenizer(render_prompt(question) + digit)["input_ids"]


def test_testing_needs_answers(test_file: Path, tiny_llama_dir: Path) -> None:
    data = PredictDataModule(test_file, str(tiny_llama_dir))
    with pytest.raises(InputError, match="正確答案"):
        data.setup("test")


def test_a_long_passage_is_cut_and_named(
    tiny_tokenizer: PreTrainedTokenizerBase, caplog: pytest.LogCaptureFixture
) -> None:
    question = Question(
        "42", "早起時仔，阿母佇灶跤煮糜。" * 800, "啥物時陣？", ("早起", "下晡", "暗時", "半暝"), 1, 1
    )
    with caplog.at_level(logging.WARNING):
        encoded = encode_questions(tiny_tokenizer, [question], max_length=512)[0]
    assert 400 < len(encoded.prompt) < 512
    assert "1 passage lost" in caplog.text
    assert "IDs 42" in caplog.text
    text = tiny_tokenizer.decode(encoded.prompt)
    assert all(piece in text for piece in ("根據前文內容回答問題", "選項4：半暝", "答案："))


def test_orders_of_the_options(
    test_file: Path, tiny_llama_dir: Path, tiny_tokenizer: PreTrainedTokenizerBase
) -> None:
    data = data_module(test_file, tiny_llama_dir, average_orders=True)
    assert [(q.row, q.rotation) for q in data.encoded[:5]] == [(1, 0), (1, 1), (1, 2), (1, 3), (2, 0)]
    assert "選項1：學校\n選項2：厝0\n選項3：海邊\n選項4：市仔" in tiny_tokenizer.decode(
        data.encoded[1].prompt
    )


def test_answers_that_cannot_be_told_apart_are_refused() -> None:
    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>"))
    blind = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="<unk>")
    question = Question("7", "", "", ("", "", "", ""), None, 1)
    with pytest.raises(InputError, match="cannot tell the answers 1-4 of question 7 apart"):
        encode_questions(blind, [question], max_length=2048)
