"""A corpus is written into a folder of its own, or over an earlier corpus; nothing else is ever touched."""

from pathlib import Path

import pytest

from corpus_tools.errors import InputError
from corpus_tools.pipeline import build_corpus
from tests.corpus_tools.corpus_folder import LONG, contents, rows_of, write_rows
from tests.working_folder import link


@pytest.fixture
def source(tmp_path: Path) -> Path:
    rows = [*rows_of("甲", LONG * 3), *rows_of("乙", LONG * 4)]
    return write_rows(tmp_path / "raw" / "deep" / "a.json", rows).parent.parent


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("raw", "is or lies in the source"),
        ("raw/deep", "is or lies in the source"),
        ("raw/new", "is or lies in the source"),
        ("link", "is or lies in the source"),
        (".", "the current one"),
        ("", "the current one"),
        ("../{here}", "holds the source"),
        ("mine", "holds thesis.docx that no run"),
        ("notes", "holds README.md and other files that no run"),
        ("raw/deep/a.json/x", "is or lies in the source"),
        ("file", "Not a directory|File exists"),
        ("file/x", "Not a directory"),
    ],
)
def test_a_folder_that_is_not_a_corpus_is_refused_and_left_as_it_is(
    output: str, message: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    link(tmp_path / "link", source)
    for path in ("mine/thesis.docx", "notes/README.md", "notes/report.json"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text("mine")
    (tmp_path / "file").write_text("mine")
    before = {path: path.is_file() and path.read_bytes() for path in sorted(tmp_path.rglob("*"))}
    with pytest.raises(InputError, match=message):
        build_corpus(source, output.format(here=tmp_path.name))
    assert {path: path.is_file() and path.read_bytes() for path in sorted(tmp_path.rglob("*"))} == before


def test_a_file_in_the_folder_of_an_earlier_corpus_is_a_reason_to_stop(source: Path, tmp_path: Path) -> None:
    build_corpus(source, tmp_path / "out")
    (tmp_path / "out" / "train-notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"train-notes\.txt"):
        build_corpus(source, tmp_path / "out")


def test_an_earlier_corpus_is_replaced_whole(source: Path, tmp_path: Path) -> None:
    build_corpus(source, tmp_path / "out", output_format="jsonl")
    build_corpus(source, tmp_path / "out")
    build_corpus(source, tmp_path / "new")
    assert contents(tmp_path / "out") == contents(tmp_path / "new")


def test_something_is_left_to_train_on(source: Path, tmp_path: Path) -> None:
    for fraction in (1.0, 0.9):
        with pytest.raises(InputError, match="to train on"):
            build_corpus(source, tmp_path / "out", validation_fraction=fraction)
    assert contents(tmp_path / "out") == {}
