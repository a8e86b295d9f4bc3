"""A table in memory is read as the same table in a file."""

from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pytest

from taigi_lightning.data.cpt import CPTDataModule
from taigi_lightning.data.predict import PredictDataModule
from taigi_lightning.data.sft import SFTDataModule
from taigi_lightning.errors import InputError
from taigi_lightning.model.lineage import describe_data

KINDS: dict[str, Any] = {
    "DataFrame": pd.DataFrame,
    "list of dicts": lambda rows: rows,
    "Dataset": datasets.Dataset.from_list,
    "selected Dataset": lambda rows: datasets.Dataset.from_list([*rows, *rows]).select(range(len(rows))),
}
TEXTS = [{"text": f"早起時仔，阿母佇灶跤煮糜。{number}"} for number in range(8)]
QUESTIONS = [
    {"ID": str(number), "文章": f"阿明下晡欲去市仔買菜。{number}", "問題": "阿明欲去佗位？", "選項1": "市仔",
     "選項2": "學校", "選項3": "厝", "選項4": "海邊", "正確答案": 1}
    for number in range(4)
]  # fmt: skip


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.mark.parametrize("kind", KINDS)
def test_a_corpus_in_memory_is_that_of_its_files(kind: str, tmp_path: Path, tiny_llama_dir: Path) -> None:
    folder = tmp_path / "corpus"
    folder.mkdir()
    pd.DataFrame(TEXTS).to_parquet(folder / "train-00000-of-00001.parquet")
    digests = []
    for source in (str(folder), KINDS[kind](TEXTS)):
        split = None if isinstance(source, str) else "validation"
        data = CPTDataModule(source, str(tiny_llama_dir), max_length=64, validation_split=split)
        data.prepare_data()
        data.setup("fit")
        assert set(data.splits) == {"train"}
        digests.append(data.splits["train"].blocks.digest)
    assert digests[0] == digests[1]
    assert describe_data(Path(data.source))["sha256"]


def test_tables_by_split(tiny_llama_dir: Path) -> None:
    tables = datasets.DatasetDict(
        train=datasets.Dataset.from_list(TEXTS[:6]), validation=datasets.Dataset.from_list(TEXTS[6:])
    )
    data = CPTDataModule(tables, str(tiny_llama_dir), max_length=64)
    data.prepare_data()
    data.setup("fit")
    assert [split.documents for split in data.splits.values()] == [6, 2]


@pytest.mark.parametrize("kind", KINDS)
def test_questions_in_memory(kind: str, tiny_llama_dir: Path) -> None:
    table = KINDS[kind](QUESTIONS)
    data = SFTDataModule(table, str(tiny_llama_dir), validation_file=table, max_length=256)
    data.setup("fit")
    assert [split.documents for split in data.splits.values()] == [4, 4]
    asked = PredictDataModule(table, str(tiny_llama_dir))
    asked.setup("predict")
    assert [question.id for question in asked.encoded] == ["0", "1", "2", "3"]


@pytest.mark.parametrize("source", [7, [1, 2], [], pd.DataFrame({"text": []})])
def test_what_is_no_table_is_refused(source: Any) -> None:
    with pytest.raises(InputError, match=r"Give a path|has no rows"):
        CPTDataModule(source)
