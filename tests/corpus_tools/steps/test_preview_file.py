"""What preview shows of a large file, read in parts, is what it shows of the file read whole."""

import json
from pathlib import Path

import pytest

from corpus_tools.errors import InputError
from corpus_tools.steps.preview_file import changes_of
from tests.corpus_tools.corpus_folder import write_rows
from tests.corpus_tools.steps.test_clean_all import some_rows, stream


@pytest.mark.parametrize("order", ["as read", "any"])
def test_a_large_file_shows_what_it_shows_whole(
    tmp_path: Path, order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [row | {"text": f"好,{row['text']}..."} for row in some_rows(3, 12, order)]
    path = write_rows(tmp_path / "a.json", rows)
    whole = sorted(changes_of(path, {}))
    stream(monkeypatch, 900)
    assert sorted(changes_of(path, {})) == whole and len(whole) > 20


def test_a_bad_row_of_a_large_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "a"}) + '\n{"text": 7}\n', encoding="utf-8")
    stream(monkeypatch, 900)
    with pytest.raises(InputError, match=r"a\.jsonl, row 2: the text is 7"):
        list(changes_of(tmp_path / "a.jsonl", {}))
