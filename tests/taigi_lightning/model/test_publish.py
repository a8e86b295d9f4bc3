"""A model takes an earlier one's place wholly, or not at all."""

import signal
from pathlib import Path

import pytest

from taigi_lightning.errors import InputError
from taigi_lightning.model import publish
from taigi_lightning.model.publish import publish_model


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """A new model of one shard, written aside, and the folder of one of two shards."""
    aside, folder = tmp_path / "model" / ".partial", tmp_path / "model"
    aside.mkdir(parents=True)
    for name in ("model.safetensors", "tokenizer.model"):
        (aside / name).write_text("new")
    names = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "config.json")
    for name in (*names, "tokenizer.model", "special_tokens_map.json", "report.html"):
        (folder / name).write_text("earlier")
    return aside, folder


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}


NEW = {"config.json": "{}", "model.safetensors": "new", "tokenizer.model": "new", "report.html": "earlier"}


def test_nothing_of_the_earlier_model_is_left_but_what_is_not_the_models(folders: tuple[Path, Path]) -> None:
    publish_model(*folders, b"{}")
    assert contents(folders[1]) == NEW
    assert not folders[0].exists()


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.model"])
def test_ctrl_c_between_two_files_waits_for_the_last(
    folders: tuple[Path, Path], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = Path.replace

    def stop_and_replace(self: Path, target: Path) -> Path:
        if self.name == name:
            signal.raise_signal(signal.SIGINT)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", stop_and_replace)
    with pytest.raises(KeyboardInterrupt):
        publish_model(*folders, b"{}")
    assert contents(folders[1]) == NEW


def test_a_file_that_another_program_holds_is_named_before_any_is_touched(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(folders[1])
    monkeypatch.setattr(publish, "in_use", lambda path: path.name == "model-00002-of-00002.safetensors")
    with pytest.raises(InputError, match=r"model-00002-of-00002.safetensors is open in another program"):
        publish_model(*folders, b"{}")
    assert contents(folders[1]) == before
    assert (folders[0] / "model.safetensors").exists()
