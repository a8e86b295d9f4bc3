"""Data sets by name: a local repository stands for one of the Hub; splits, revision and errors."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from taigi_lightning.data.cpt import CPTDataModule
from taigi_lightning.data.hub import address_of, hub_file, hub_folder
from taigi_lightning.data.instruction import InstructionDataModule
from taigi_lightning.errors import InputError


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "owner" / "texts"
    (folder / "data").mkdir(parents=True)
    for split, texts in {"train": ["食飽未？", "好天。"], "validation": ["落雨。"]}.items():
        rows = {"text": texts, "prompt": texts, "completion": texts}
        pq.write_table(pa.table(rows), folder / "data" / f"{split}-00000-of-00001.parquet")
    return folder


def test_a_corpus_is_its_splits(repository: Path, tiny_llama_dir: Path, tmp_path: Path) -> None:
    folder = hub_folder(f"hf://{repository}")
    assert pq.read_table(folder / "train-00000-of-00001.parquet")["text"].to_pylist() == [
        "食飽未？",
        "好天。",
    ]
    assert (
        json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["source"] == f"hf://{repository}"
    )
    assert hub_folder(f"hf://{repository}") == folder
    data = CPTDataModule(f"hf://{repository}", str(tiny_llama_dir), cache_dir=str(tmp_path / "cache"))
    data.setup("fit")
    assert data.splits["train"].documents == 2 and data.splits["validation"].documents == 1


def test_a_split_is_a_file(repository: Path, tiny_llama_dir: Path) -> None:
    assert pq.read_table(hub_file(f"hf://{repository}:validation"))["text"].to_pylist() == ["落雨。"]
    data = InstructionDataModule(f"hf://{repository}", str(tiny_llama_dir), validation_fraction=0)
    data.setup("fit")
    assert data.splits["train"].documents == 2


def test_one_split_can_be_the_corpus(repository: Path) -> None:
    folder = hub_folder(f"hf://{repository}:validation")
    assert [path.name for path in sorted(folder.glob("*.parquet"))] == ["train-00000-of-00001.parquet"]


def test_what_cannot_be_had_is_one_sentence(repository: Path, tmp_path: Path) -> None:
    for source, said in {
        f"hf://{repository}:dev": "check name and split",
        f"hf://{tmp_path}/gone": "check name and split",
        "hf://": "give hf://OWNER/NAME",
    }.items():
        with pytest.raises(InputError, match=said):
            hub_file(source)
    assert address_of("hf://owner/name@v1:dev") == ("owner/name", "v1", "dev")
