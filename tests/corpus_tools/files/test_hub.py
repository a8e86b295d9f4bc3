"""Data sets as a source, from a repository on this machine: streamed, with names mapped, refused in a sentence."""

import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import snapshot_download

from corpus_tools.__main__ import main
from corpus_tools.errors import InputError
from corpus_tools.files import hub
from corpus_tools.files.hub import address_of, fetch
from corpus_tools.pipeline import build_corpus
from tests.corpus_tools.corpus_folder import LONG, contents, documents, rows_of, write_rows
from tests.corpus_tools.files.hub_server import REVISION, TOKEN, serve

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
        f"hf://{repository}@main": "a folder on this machine has no revisions",
    }.items():
        with pytest.raises(InputError, match=message):
            fetch(source, tmp_path / "fetched", {})
    with pytest.raises(InputError, match=r"no column 'gone' among title"):
        fetch(f"hf://{repository}", tmp_path / "fetched", {"text": "gone"})


@pytest.fixture
def online(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The repository as the gated data set owner/texts of a Hub on this machine; what is asked of it."""
    with serve(repository, "owner/texts", gated=True) as (address, log):
        for name, value in {
            "huggingface_hub.constants.ENDPOINT": address,
            "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE": address
            + "/{repo_id}/resolve/{revision}/{filename}",
            "huggingface_hub.constants.HF_HUB_CACHE": str(tmp_path / "hub"),
            "huggingface_hub.constants.HF_HUB_OFFLINE": False,
            "datasets.config.HF_ENDPOINT": address,
            "datasets.config.HF_HUB_OFFLINE": False,
        }.items():
            monkeypatch.setattr(name, value)
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield log


def test_a_gated_data_set_is_streamed_with_the_users_token(
    online: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        InputError, match=r"gated dataset on the Hub.*ask for access on its page, then log in"
    ):
        fetch("hf://owner/texts", tmp_path / "fetched", {})
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    build_corpus("hf://owner/texts", tmp_path / "out", validation_fraction=0)
    assert len(documents(tmp_path / "out")) == 6
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text("utf-8"))
    assert manifest["options"]["revisions"] == {"hf://owner/texts": REVISION}
    assert manifest["inputs"][0]["name"] == f"hf://owner/texts@{REVISION[:12]}/train-00000.jsonl"
    assert any(asked.endswith("train-00000-of-00001.parquet 206") for asked in online)  # in pieces
    assert not any("test-00000" in asked for asked in online)


def test_a_downloaded_data_set_is_read_offline(
    online: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    snapshot_download("owner/texts", repo_type="dataset", cache_dir=tmp_path / "hub")
    for name in ("huggingface_hub.constants.HF_HUB_OFFLINE", "datasets.config.HF_HUB_OFFLINE"):
        monkeypatch.setattr(name, True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    online.clear()
    sources, revision = fetch("hf://owner/texts", tmp_path / "fetched", {})
    assert revision == REVISION and not online
    assert [json.loads(line) for line in sources[0].path.read_text("utf-8").splitlines()] == ROWS
    with pytest.raises(InputError, match="fetch it first with: hf download --repo-type dataset owner/gone"):
        fetch("hf://owner/gone", tmp_path / "fetched", {})


def test_what_the_hub_lacks_is_named_and_the_nearest_name(
    online: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    for source, message in {
        "hf://owner/text": r"doesn't exist.*; did you mean hf://owner/texts\?",
        "hf://owner/zzz": r"doesn't exist.*; check name and split",
        "hf://owner/texts@v9": r"Revision 'v9' doesn't exist.*; check name",
        "hf://owner/texts:dev": r"Bad split: dev\. Available splits: \['train'\]; check name and split",
    }.items():
        with pytest.raises(InputError, match=message):
            fetch(source, tmp_path / "fetched", {})


def test_addresses_are_read_as_a_path_leaves_them() -> None:
    assert address_of(Path("hf://owner/name@v1:dev")) == ("owner/name", "v1", "dev")
