"""The corpus folder: exact accounting, the same bytes however it is run, nothing lost when a run dies."""

import json
import random
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from filelock import FileLock

from corpus_tools import pipeline
from corpus_tools.__main__ import main
from corpus_tools.errors import InputError
from corpus_tools.pipeline import build_corpus
from corpus_tools.sample.write import write_sample
from tests.corpus_tools.corpus_folder import LONG, contents, documents, rows_of, write_rows


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sample(tmp_path_factory.mktemp("raw"), articles=12, questions=4, test_questions=4)


def test_rows_and_characters_balance(raw: Path, tmp_path: Path) -> None:
    report = build_corpus([raw / "IMA-Taiwan"], tmp_path / "out")
    rows, characters = report["rows"], report["characters"]
    files = list((raw / "IMA-Taiwan").rglob("*.json"))
    texts = [row["text"] for file in files for row in json.loads(file.read_text("utf-8"))]
    assert rows["read"] == len(texts) == rows["kept"] + sum(rows["dropped"].values())
    assert characters["read"] == sum(map(len, texts))
    spent = [characters["edges"], characters["kept"]]
    spent += [*characters["removed_by_rule"].values(), *characters["dropped"].values()]
    assert characters["read"] + characters["line_breaks_added"] == sum(spent)
    assert characters["kept"] == sum(len(d["text"]) for d in documents(tmp_path / "out"))
    dropped = pq.read_table(tmp_path / "out" / "dropped.parquet").to_pylist()
    assert sum(d["rows"] for d in dropped) == sum(rows["dropped"].values())


def test_documents_have_the_bounds_and_no_duplicates(raw: Path, tmp_path: Path) -> None:
    build_corpus([raw / "IMA-Taiwan"], tmp_path, max_chars=300)
    texts = [d["text"] for d in documents(tmp_path)]
    assert texts and all(100 <= len(t) <= 300 for t in texts)
    assert len(set(texts)) == len(texts)


def test_output_is_the_same_in_processes(raw: Path, tmp_path: Path) -> None:
    build_corpus([raw / "IMA-Taiwan"], tmp_path / "a")
    with ProcessPoolExecutor(2) as executor:
        build_corpus([raw / "IMA-Taiwan"], tmp_path / "b", executor=executor)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_output_is_the_same_on_a_dask_cluster(raw: Path, tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    build_corpus([raw / "IMA-Taiwan"], tmp_path / "a")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    ) as cluster:
        arguments = ["clean", str(raw / "IMA-Taiwan"), "--output_dir", str(tmp_path / "b")]
        assert main([*arguments, "--scheduler", cluster.scheduler_address]) == 0
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_a_killed_run_is_taken_up_again(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build_corpus([raw / "IMA-Taiwan"], tmp_path / "a")
    cleaned = []
    original = pipeline.write_part

    def die(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "write_part", die)
    with pytest.raises(KeyboardInterrupt):
        build_corpus([raw / "IMA-Taiwan"], tmp_path / "b")
    assert contents(tmp_path / "b") == {}
    monkeypatch.setattr(pipeline, "write_part", original)
    monkeypatch.setattr("corpus_tools.steps.clean_shard._clean_rows", lambda *a: cleaned.append(a))
    build_corpus([raw / "IMA-Taiwan"], tmp_path / "b")
    assert not cleaned
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_a_run_killed_among_the_last_renames_is_taken_up_again(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_corpus([raw / "IMA-Taiwan"], tmp_path / "a")
    build_corpus([raw / "IMA-Taiwan"], tmp_path / "b", max_chars=300)
    renamed: list[Path] = []
    rename = Path.replace

    def die(self: Path, target: Path) -> Path:
        if self.parent.name == ".partial" and target.parent.name == "b":
            renamed.append(target)
            if len(renamed) == 3:
                raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        build_corpus([raw / "IMA-Taiwan"], tmp_path / "b")
    assert not (tmp_path / "b" / "manifest.json").exists()  # nobody takes the half for the whole
    monkeypatch.undo()
    build_corpus([raw / "IMA-Taiwan"], tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_an_error_leaves_the_earlier_corpus_untouched(raw: Path, tmp_path: Path) -> None:
    build_corpus([raw / "IMA-Taiwan"], tmp_path / "out")
    before = contents(tmp_path / "out")
    bad = tmp_path / "bad.json"
    bad.write_text('[{"text": "阮"}, {"text": ', encoding="utf-8")
    with pytest.raises(InputError, match=r"bad\.json, row 2"):
        build_corpus([bad], tmp_path / "out")
    assert contents(tmp_path / "out") == before


def test_bad_files_can_be_skipped_and_are_listed(tmp_path: Path) -> None:
    write_rows(tmp_path / "in" / "good.json", rows_of("一", LONG * 3))
    (tmp_path / "in" / "bad.json").write_text("[", encoding="utf-8")
    report = build_corpus([tmp_path / "in"], tmp_path / "out", skip_bad_files=True)
    assert list(report["skipped_files"]) == ["bad.json"] and report["documents"]["total"] == 1


def test_two_runs_do_not_mix(raw: Path, tmp_path: Path) -> None:
    with FileLock(tmp_path / ".lock"), pytest.raises(InputError, match="another run"):
        build_corpus([raw / "IMA-Taiwan"], tmp_path)


@contextmanager
def executor_of(kind: str) -> Iterator[Executor | None]:
    if kind == "none":
        yield None
    elif kind == "processes":
        with ProcessPoolExecutor(2) as executor:
            yield executor
    else:
        distributed = pytest.importorskip("distributed")
        options = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
        with distributed.LocalCluster(**options) as cluster, distributed.Client(cluster) as client:
            yield client.get_executor()


@pytest.mark.parametrize("kind", ["none", "processes", "dask"])
def test_a_title_of_one_author_that_spans_files_is_one_article(kind: str, tmp_path: Path) -> None:
    first, broken, last = rows_of(
        "海邊", "阮兜佇海邊仔，逐工攏會當看", "著日頭落海。", "阿婆定定講起少年時陣的代誌。"
    )
    other = rows_of("海邊", "山頂的風透甲真大，逐家攏緊轉去。", author="王")
    write_rows(tmp_path / "in" / "a.json", [broken, *rows_of("山", "這篇佮別篇攏無仝，干焦一句爾。")])
    write_rows(tmp_path / "in" / "b.json", [last, first])
    write_rows(tmp_path / "in" / "c.json", other)
    with executor_of(kind) as executor:
        report = build_corpus(
            [tmp_path / "in"], tmp_path / "out", min_chars=5, validation_fraction=0, executor=executor
        )
    found = [(d["title"], d["author"], d["source"], d["text"]) for d in documents(tmp_path / "out")]
    assert sorted(found) == sorted(
        [
            ("山", "林", "a.json", "這篇佮別篇攏無仝，干焦一句爾。"),
            ("海邊", "林", "b.json", "阮兜佇海邊仔，逐工攏會當看著日頭落海。\n阿婆定定講起少年時陣的代誌。"),
            ("海邊", "王", "c.json", "山頂的風透甲真大，逐家攏緊轉去。"),
        ]
    )
    assert report["rows"]["read"] == report["rows"]["kept"] == 5


@pytest.mark.parametrize("seed", range(4))
def test_documents_do_not_depend_on_where_rows_lie(seed: int, tmp_path: Path) -> None:
    rows = [
        r for k in range(12) for r in rows_of(f"題{k}", f"第{k}號人。{LONG}", f"閣有第{k}句，", f"煞{k}。")
    ]
    write_rows(tmp_path / "in" / "a.json", rows)
    shuffled, files = rows.copy(), 1 + seed
    random.Random(seed).shuffle(shuffled)
    for n in range(files):
        write_rows(tmp_path / "moved" / f"{9 - n}" / "x.json", shuffled[n::files])
    found = []
    for source in ("in", "moved"):
        build_corpus([tmp_path / source], tmp_path / f"{source}-out", min_chars=20, validation_fraction=0.3)
        found.append(
            {
                (path.name.split("-")[0], d["title"], d["text"])
                for path in (tmp_path / f"{source}-out").glob("*-of-*.parquet")
                for d in pq.read_table(path).to_pylist()
            }
        )
    assert found[0] == found[1] and len(found[0]) == 12


def test_the_order_in_which_sources_are_given_does_not_matter(tmp_path: Path) -> None:
    paths = [write_rows(tmp_path / f"{name}.json", rows_of(name, LONG + name * 60)) for name in "甲乙丙"]
    build_corpus(paths, tmp_path / "one")
    build_corpus(paths[::-1], tmp_path / "two")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_validation_never_parts_an_article(raw: Path, tmp_path: Path) -> None:
    build_corpus([raw / "IMA-Taiwan"], tmp_path, max_chars=200, validation_fraction=0.3)
    titles = [
        {d["title"] for d in pq.read_table(path).to_pylist()}
        for path in sorted(tmp_path.glob("*-of-*.parquet"))
    ]
    assert titles[0] and titles[1] and not titles[0] & titles[1]


def test_the_folder_loads_as_a_dataset(raw: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    for kind in ("parquet", "jsonl"):
        report = build_corpus([raw / "IMA-Taiwan"], tmp_path / kind, output_format=kind)
        loaded = datasets.load_dataset(str(tmp_path / kind), cache_dir=str(tmp_path / "cache"))
        assert {s: len(d) for s, d in loaded.items()} == {
            s: report["documents"][s] for s in ("train", "validation")
        }


def test_the_manifest_names_inputs_and_outputs(raw: Path, tmp_path: Path) -> None:
    build_corpus([raw / "IMA-Taiwan"], tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text("utf-8"))
    assert set(manifest["outputs"]) | {"manifest.json"} == set(contents(tmp_path))
    assert all(len(entry["sha256"]) == 64 and entry["rows"] for entry in manifest["inputs"])
