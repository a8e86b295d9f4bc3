"""Data sets as a source, from a repository on this machine: streamed, with names mapped, refused in a sentence."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from corpus_tools.__main__ import main
from corpus_tools.errors import InputError
from corpus_tools.files import hub
from corpus_tools.files.hub import address_of, fetch
from corpus_tools.pipeline import build_corpus
from tests.corpus_tools.corpus_folder import LONG, contents, documents, rows_of, write_rows

ROWS = [row for k in range(6) for row in rows_of(f"題{k}", *(f"{LONG}{k}.{i}" for i in range(4)))]


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "repository"
    (folder / "data").mkdir(parents=True)
    columns = {name: [row[name] for row in ROWS] for name in ROWS[0]} | {"picture": [b"x"] * len(ROWS)}
    pq.write_table(pa.table(columns), folder / "data" / "train-00000-of-00001.parquet")
    pq.write_table(pa.table({"body": ["阮佇遮。"]}), folder / "data" / "test-00000-of-00001.parquet")
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: data/train-*\n---\n"
    )
    return folder


def test_a_data_set_gives_the_documents_that_a_file_gives(repository: Path, tmp_path: Path) -> None:
    write_rows(tmp_path / "in" / "a.json", ROWS)
    build_corpus(tmp_path / "in", tmp_path / "from-file")
    assert main(["clean", f"hf://{repository}", "--output_dir", str(tmp_path / "out"), "--workers", "1"]) == 0
    found = [
        [(d["title"], d["author"], d["text"]) for d in documents(tmp_path / k)] for k in ("from-file", "out")
    ]
    assert found[0] == found[1] and len(found[0]) == 6
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text("utf-8"))
    assert manifest["options"]["revisions"] == {f"hf://{repository}": ""}
    assert manifest["inputs"][0]["name"] == f"hf://{repository}/train-00000.jsonl"
    assert set(manifest["outputs"]) | {"manifest.json"} == set(contents(tmp_path / "out"))


def test_files_are_parted_where_a_title_ends(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "_FILE_BYTES", 500)
    sources, _ = fetch(f"hf://{repository}:train", tmp_path / "fetched", {})
    rows = [[json.loads(line) for line in source.path.read_text("utf-8").splitlines()] for source in sources]
    assert [row for part in rows for row in part] == ROWS and len(rows) == 6
    assert all(len({row["title"] for row in part}) == 1 for part in rows)


def test_what_cannot_be_had_is_one_sentence(repository: Path, tmp_path: Path) -> None:
    for source, message in {
        f"hf://{repository}:dev": "check name and split",
        f"hf://{tmp_path}/gone": "check name and split",
        "hf://": "give hf://OWNER/NAME",
    }.items():
        with pytest.raises(InputError, match=message):
            fetch(source, tmp_path / "fetched", {})
    with pytest.raises(InputError, match=r"no column 'gone' among title"):
        fetch(f"hf://{repository}", tmp_path / "fetched", {"text": "gone"})


def test_addresses_are_read_as_a_path_leaves_them() -> None:
    assert address_of(Path("hf://owner/name@v1:dev")) == ("owner/name", "v1", "dev")
