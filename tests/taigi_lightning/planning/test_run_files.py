"""lineage.json and adapter_config.json: read in one place, and named where they cannot be."""

from pathlib import Path

import pytest

from taigi_lightning.errors import InputError
from taigi_lightning.planning.run_files import adapter_config, lineage_file


def test_what_is_there_is_read_and_what_is_not_is_none(tmp_path: Path) -> None:
    assert lineage_file(tmp_path) is None
    (tmp_path / "lineage.json").write_text('{"base": {"name": "a"}}')
    (tmp_path / "adapter_config.json").write_text('{"r": 4}')
    assert lineage_file(tmp_path) == {"base": {"name": "a"}}
    assert adapter_config(tmp_path) == {"r": 4}


@pytest.mark.parametrize("text", ["", "{", "null", "[]", '"a"', "{}", '{"base": "a"}'])
def test_a_broken_lineage_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "lineage.json").write_text(text)
    with pytest.raises(InputError, match=r"lineage\.json"):
        lineage_file(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_broken_adapter_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "adapter_config.json").write_text(text)
    with pytest.raises(InputError, match=r"adapter_config\.json"):
        adapter_config(tmp_path)


def test_a_folder_without_an_adapter_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no adapter_config\.json\. Train first"):
        adapter_config(tmp_path, "Train first.")
