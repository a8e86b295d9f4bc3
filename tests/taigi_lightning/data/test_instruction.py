"""Instruction data as batches: divided by group, packed or not, mixed, and counted where something is left out."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from transformers import AutoTokenizer

from taigi_lightning.data.instruction import InstructionDataModule
from taigi_lightning.errors import InputError
from taigi_lightning.tasks.conversation_forms import InstructionTemplate
from taigi_lightning.tasks.prompts import IGNORE


@pytest.fixture
def chat(tmp_path: Path) -> Path:
    rows = [{"prompt": f"第{number % 20}題：", "completion": f"答案{number}。"} for number in range(40)]
    path = tmp_path / "chat.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def module(file: Any, tokenizer: Path, **settings: Any) -> InstructionDataModule:
    data = InstructionDataModule(file, str(tokenizer), **{"max_length": 64, "batch_size": 2} | settings)
    data.setup("fit")
    return data


def supervised(data: InstructionDataModule, tokenizer: Path) -> list[str]:
    """What each conversation of an epoch is taught, as text."""
    read = AutoTokenizer.from_pretrained(tokenizer)
    found: list[list[int]] = []
    for batch in data.train_dataloader():
        for labels, positions in zip(batch["labels"].tolist(), batch["position_ids"].tolist(), strict=True):
            for label, position in zip(labels, positions, strict=True):
                if position == 0:
                    found.append([])
                elif label != IGNORE:
                    found[-1].append(label)
    return sorted(read.decode(ids, skip_special_tokens=True).strip() for ids in found if ids)


@pytest.mark.parametrize("packing", [True, False])
def test_an_epoch_teaches_each_answer_once(chat: Path, tiny_llama_dir: Path, packing: bool) -> None:
    data = module(str(chat), tiny_llama_dir, validation_fraction=0, packing=packing)
    assert supervised(data, tiny_llama_dir) == sorted(f"答案{number}。" for number in range(40))
    assert "40 examples" in data.summary()


def test_equal_questions_are_on_one_side(chat: Path, tiny_llama_dir: Path) -> None:
    data = module(str(chat), tiny_llama_dir, validation_fraction=0.1)
    taught = {int(text.removeprefix("答案").rstrip("。")) % 20 for text in supervised(data, tiny_llama_dir)}
    assert len(taught) == 18 and data.splits["validation"].documents == 4


def test_files_are_mixed_and_each_is_validated_on(chat: Path, tmp_path: Path, tiny_llama_dir: Path) -> None:
    other = tmp_path / "more.csv"
    other.write_text("prompt,completion\n" + "".join(f"問{n},好{n}\n" for n in range(40)), encoding="utf-8")
    data = module({str(chat): 3, str(other): 1}, tiny_llama_dir, packing=False, batch_size=1)
    taught = [text.startswith("好") for text in supervised(data, tiny_llama_dir)]
    assert taught.count(False) == 38 and taught.count(True) == 13
    assert [batch["source"] for loader in data.val_dataloader() for batch in loader][::2] == ["chat", "more"]
    assert "train chat (75.0% of the rows): 38 examples" in data.summary()


def test_a_table_and_a_template_from_python(tiny_llama_dir: Path) -> None:
    table = pd.DataFrame({"zh": ["吃飯", "睡覺"], "nan": ["食飯", "睏"]})
    data = module(
        table, tiny_llama_dir, template=InstructionTemplate("翻譯：{zh}", "{nan}"), validation_fraction=0
    )
    assert supervised(data, tiny_llama_dir) == ["睏", "食飯"]


def test_validation_on_what_is_trained_on_is_said(
    tmp_path: Path, tiny_llama_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{"prompt": f"問{n}", "completion": "好"} for n in range(4)]
    train, held_out = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    for path, chosen in ((train, rows[:3]), (held_out, rows[2:])):
        path.write_text("".join(json.dumps(row) + "\n" for row in chosen), encoding="utf-8")
    module(str(train), tiny_llama_dir, validation_file=str(held_out))
    assert f"{held_out}: 1 conversations are of a group of the training file" in caplog.text


def test_answers_that_do_not_fit_are_left_out_and_counted(tmp_path: Path, tiny_llama_dir: Path) -> None:
    rows = [{"prompt": "問：", "completion": "好" * length} for length in (3, 500)]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    data = module(str(path), tiny_llama_dir, validation_fraction=0)
    assert "1 examples (1 left out, as their answers do not fit)" in data.summary()
    with pytest.raises(InputError, match="fits into max_length=4"):
        module(str(path), tiny_llama_dir, validation_fraction=0, max_length=4)
    long = tmp_path / "long.jsonl"
    long.write_text(json.dumps(rows[1]) + "\n", encoding="utf-8")
    with pytest.raises(InputError, match=f"No conversation of {long} fits"):
        module({str(path): 1, str(long): 1}, tiny_llama_dir, validation_fraction=0)
