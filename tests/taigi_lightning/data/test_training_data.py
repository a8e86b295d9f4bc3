from itertools import pairwise
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch.trainer.states import TrainerFn
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

from taigi_lightning.data.cpt import CPTDataModule
from taigi_lightning.data.sft import SFTDataModule
from taigi_lightning.errors import InputError
from taigi_lightning.tasks.prompts import IGNORE, encode_example
from taigi_lightning.tasks.question_batches import QuestionBatch
from taigi_lightning.tasks.questions import read_questions

SENTENCE = "阿明下晡欲去市仔買菜，伊毋知影按怎行。"


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    for split, count in (("train", 40), ("validation", 5)):
        texts = [f"{split}{i}：" + SENTENCE * (1 + i % 7) for i in range(count)]
        pq.write_table(pa.table({"text": texts}), tmp_path / f"{split}-00000-of-00001.parquet")
    return tmp_path


@pytest.fixture
def questions_file(tmp_path: Path) -> Path:
    rows = [f"第{i % 20}篇：{SENTENCE * (1 + i % 3)},題{i}？,一,二,三,四,{1 + i % 4}" for i in range(40)]
    path = tmp_path / "questions.csv"
    path.write_text("文章,問題,選項1,選項2,選項3,選項4,正確答案\n" + "\n".join(rows), encoding="utf-8")
    return path


def cpt(corpus: Path, tokenizer: Path, **settings: Any) -> CPTDataModule:
    settings = {"batch_size": 4, "max_length": 128, "cache_dir": str(corpus / "cache")} | settings
    return CPTDataModule(str(corpus), str(tokenizer), **settings)


def documents(batches: list[dict[str, torch.Tensor]]) -> list[list[int]]:
    """The supervised tokens of every document in the batches."""
    found: list[list[int]] = []
    for batch in batches:
        for labels, positions in zip(batch["labels"], batch["position_ids"], strict=True):
            for label, position in zip(labels.tolist(), positions.tolist(), strict=True):
                if position == 0:
                    found.append([])
                elif label != IGNORE:
                    found[-1].append(label)
    return [document for document in found if document]


@pytest.mark.parametrize("packing", [True, False])
def test_an_epoch_of_the_corpus_holds_every_document_once(
    corpus: Path, tiny_llama_dir: Path, tiny_tokenizer: PreTrainedTokenizerBase, packing: bool
) -> None:
    data = cpt(corpus, tiny_llama_dir, max_length=512, packing=packing)
    data.prepare_data()
    data.setup("fit")
    batches = list(data.train_dataloader())
    texts = pq.read_table(corpus / "train-00000-of-00001.parquet")["text"].to_pylist()
    expected = [[*tiny_tokenizer(text)["input_ids"][1:], tiny_tokenizer.eos_token_id] for text in texts]
    assert sorted(documents(batches)) == sorted(expected)
    for batch in batches:
        assert set(batch) == {"input_ids", "labels", "position_ids"}
        assert {tensor.dtype for tensor in batch.values()} == {torch.int64}
        assert batch["input_ids"].shape[0] == 4
        assert (batch["labels"][batch["position_ids"] == 0] == IGNORE).all()
        if packing:
            assert batch["input_ids"].shape == (4, 512)
    held_out = [batch for loader in data.val_dataloader() for batch in loader]
    assert len(documents(held_out)) == 5


def test_the_summary_counts(corpus: Path, tiny_llama_dir: Path) -> None:
    data = cpt(corpus, tiny_llama_dir, max_length=40)
    assert data.summary() == ""
    data.prepare_data()
    data.setup("fit")
    split = data.splits["train"]
    batches = list(data.train_dataloader())
    assert split.blocks.supervised_tokens == sum(int((batch["labels"] != IGNORE).sum()) for batch in batches)
    assert split.documents == 40
    assert split.cut > 0
    train, validation = data.summary().splitlines()
    assert train.startswith(f"train: 40 documents ({split.cut} cut to fit) in {len(split.blocks)} rows: ")
    assert train.endswith(f"{split.blocks.packing.padding_share:.1%} padding")
    assert validation.startswith("validation: 5 documents")


def test_the_seed_alone_decides_the_order(
    corpus: Path, tiny_llama_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def order(seed: int) -> list[int]:
        monkeypatch.setenv("PL_GLOBAL_SEED", str(seed))
        data = cpt(corpus, tiny_llama_dir)
        data.setup("fit")
        return [int(n) for batch in data.train_dataloader() for n in batch["input_ids"].flatten()]

    assert order(1) == order(1)
    assert order(1) != order(2)


def test_a_corpus_without_validation(corpus: Path, tiny_llama_dir: Path) -> None:
    (corpus / "validation-00000-of-00001.parquet").unlink()
    with pytest.raises(InputError, match=r"holds no validation-\*.parquet"):
        cpt(corpus, tiny_llama_dir).setup("fit")
    data = cpt(corpus, tiny_llama_dir, validation_split=None)
    data.setup("fit")
    assert data.val_dataloader() == []
    with pytest.raises(InputError, match="There is no corpus folder"):
        cpt(corpus / "absent", tiny_llama_dir).prepare_data()


@pytest.mark.parametrize(("stage", "encoded"), [("fit", 2), ("validate", 1), ("test", 0), (None, 2)])
def test_only_the_splits_of_the_stage_are_encoded(
    corpus: Path, tiny_llama_dir: Path, stage: str | None, encoded: int
) -> None:
    data = cpt(corpus, tiny_llama_dir)
    if stage:
        data.trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
        data.trainer.state.fn = TrainerFn(stage)
    data.prepare_data()
    assert len(list((corpus / "cache").glob("*.arrow"))) == encoded


def test_validate_alone_needs_no_training_split(corpus: Path, tiny_llama_dir: Path) -> None:
    (corpus / "train-00000-of-00001.parquet").unlink()
    data = cpt(corpus, tiny_llama_dir)
    data.setup("validate")
    assert list(data.splits) == ["validation"]


@pytest.mark.parametrize("packing", [True, False])
def test_an_epoch_of_questions_supervises_each_answer_and_eos_once(
    questions_file: Path, tiny_llama_dir: Path, tiny_tokenizer: PreTrainedTokenizerBase, packing: bool
) -> None:
    data = SFTDataModule(str(questions_file), str(tiny_llama_dir), validation_fraction=0, packing=packing)
    data.setup("fit")
    batches = list(data.train_dataloader())
    questions = read_questions(questions_file, need_answers=True)
    expected = [encode_example(tiny_tokenizer, question, 2048).input_ids[-2:] for question in questions]
    assert sorted(documents(batches)) == sorted(expected)
    assert data.val_dataloader() == []
    assert packing or all(batch["input_ids"].shape[1] % 8 == 0 for batch in batches)


def test_questions_are_held_out_with_their_passage_for_loss_and_accuracy(
    questions_file: Path, tiny_llama_dir: Path
) -> None:
    data = SFTDataModule(
        str(questions_file), str(tiny_llama_dir), validation_fraction=0.2, supervise="everything"
    )
    data.setup("fit")
    assert [line.split(" in ")[0] for line in data.summary().splitlines()] == [
        "train: 32 examples",
        "validation: 8 examples",
    ]
    examples, questions = data.val_dataloader()
    assert sum(len(document) for document in documents(list(examples))) == 2 * 8  # the answer and EOS
    batches = list(questions)
    assert all(isinstance(batch, QuestionBatch) for batch in batches)
    assert sorted(question.row for batch in batches for question in batch.questions) == sorted(
        question.row for question in data.held_out
    )
    assert len(documents(list(data.train_dataloader()))[0]) > 50


def test_a_validation_file_and_a_warning_about_shared_passages(
    questions_file: Path, tiny_llama_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = SFTDataModule(str(questions_file), str(tiny_llama_dir), validation_file=str(questions_file))
    data.setup("fit")
    assert data.splits["train"].documents == data.splits["validation"].documents == 40
    assert "40 questions have a passage of the training file" in caplog.text


def test_validate_alone_needs_no_training_file_beside_a_validation_file(
    questions_file: Path, tiny_llama_dir: Path
) -> None:
    data = SFTDataModule("absent.csv", str(tiny_llama_dir), validation_file=str(questions_file))
    data.setup("validate")
    assert list(data.splits) == ["validation"]
    with pytest.raises(InputError, match=r"absent\.csv"):
        data.setup("fit")


def test_cut_examples_are_counted(questions_file: Path, tiny_llama_dir: Path) -> None:
    data = SFTDataModule(str(questions_file), str(tiny_llama_dir), validation_fraction=0, max_length=72)
    data.setup("fit")
    assert data.splits["train"].cut > 0
    assert max(data.splits["train"].blocks.packing.lengths) <= 72


@pytest.mark.parametrize("settings", [{"validation_fraction": 1.0}, {"batch_size": 0}])
def test_impossible_settings(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="Set it to"):
        SFTDataModule(**settings)


@pytest.mark.parametrize("module", [CPTDataModule, SFTDataModule])
def test_every_field_is_described_on_the_command_line(
    module: type, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = ArgumentParser()
    parser.add_class_arguments(module, "data")
    text = " ".join(parser.format_help().split())
    for action in parser._actions:
        assert action.help, action.dest
    assert "micro-batch" in text


def test_a_packed_document_has_the_loss_it_has_alone(corpus: Path, tiny_llama_dir: Path) -> None:
    """The boundaries are in `position_ids`: with attention that follows them, neighbours do not matter."""
    model = AutoModelForCausalLM.from_pretrained(tiny_llama_dir, dtype=torch.float32).eval()
    data = cpt(corpus, tiny_llama_dir, max_length=512)
    data.setup("fit")
    row = data.splits["train"].blocks[0]
    starts = [*np.flatnonzero(row["position_ids"] == 0), 512]
    ids, labels, positions = (
        torch.from_numpy(row[key])[None] for key in ("input_ids", "labels", "position_ids")
    )
    document = (positions == 0).cumsum(dim=1)
    allowed = (document[:, None, :, None] == document[:, None, None, :]).tril()
    with torch.no_grad():
        together = model(ids, attention_mask=allowed, position_ids=positions).logits
        for start, stop in pairwise(starts):
            alone = model(ids[:, start:stop]).logits
            torch.testing.assert_close(together[:, start:stop], alone, rtol=1e-4, atol=1e-5)
    assert (labels[0, starts[:-1]] == IGNORE).all()


@pytest.mark.parametrize("packing", [True, False])
def test_data_from_which_nothing_would_be_learned_are_refused(
    corpus: Path, tiny_llama_dir: Path, packing: bool
) -> None:
    data = CPTDataModule(str(corpus), str(tiny_llama_dir), max_length=1, packing=packing)
    data.prepare_data()
    data.setup("fit")
    with pytest.raises(InputError, match=r"none of its tokens is supervised, as max_length is 1"):
        data.train_dataloader()


def test_corpora_are_mixed_and_each_is_validated_on(
    corpus: Path, tmp_path: Path, tiny_llama_dir: Path
) -> None:
    replay = tmp_path / "replay"
    replay.mkdir()
    texts = {"train": [f"重讀{i}" * 9 for i in range(90)], "validation": ["重讀" * 9]}
    for split, rows in texts.items():
        pq.write_table(pa.table({"text": rows}), replay / f"{split}-00000-of-00001.parquet")
    shares = {str(corpus): 0.8, str(replay): 0.2}
    data = CPTDataModule(shares, str(tiny_llama_dir), cache_dir=str(tmp_path / "cache"), packing=False)
    data.prepare_data()
    data.setup("fit")
    assert len(documents(list(data.train_dataloader()))) == 40 + 10
    assert data.sources == (str(corpus), str(replay))
    assert [batch["source"] for loader in data.val_dataloader() for batch in loader][-1] == "replay"


def test_a_replay_without_held_out_texts_is_not_validated_on(
    corpus: Path, tmp_path: Path, tiny_llama_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    replay = tmp_path / "replay"
    replay.mkdir()
    pq.write_table(pa.table({"text": ["重讀" * 9]}), replay / "train-00000-of-00001.parquet")
    data = CPTDataModule(
        {str(corpus): 1, str(replay): 1}, str(tiny_llama_dir), cache_dir=str(tmp_path / "cache")
    )
    data.setup("fit")
    assert list(data.held_out_splits()) == [corpus.name]
    assert "has no validation split" in caplog.text
