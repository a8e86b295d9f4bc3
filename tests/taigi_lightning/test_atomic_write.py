"""Files and folders that appear whole or not at all."""

import signal
from pathlib import Path

import pytest

from taigi_lightning.atomic_write import write_json, written_aside


def test_a_block_that_fails_leaves_the_earlier_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    write_json(path, {"accuracy": "0.5", "名": "台語"})
    with pytest.raises(OSError, match="disk"), written_aside(path) as aside:
        aside.write_text("half of")
        raise OSError("disk full")
    assert path.read_text(encoding="utf-8") == '{\n  "accuracy": "0.5",\n  "名": "台語"\n}\n'
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_replaces_the_earlier_one_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "adapter"
    for name in ("old", "new"):
        with written_aside(path) as aside:
            aside.mkdir()
            (aside / name).touch()
    assert [file.name for file in path.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_replaced_stays_and_so_does_one_whose_replacing_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "adapter"
    replace = Path.replace

    def write(name: str) -> None:
        with written_aside(path) as aside:
            aside.mkdir()
            (aside / name).touch()

    def refuse(self: Path, target: Path) -> Path:
        raise PermissionError("a scanner holds a file of it")

    def stop_and_replace(self: Path, target: Path) -> Path:
        signal.raise_signal(signal.SIGINT)
        return replace(self, target)

    write("old")
    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(PermissionError):
        write("new")
    assert [file.name for file in path.iterdir()] == ["old"]
    monkeypatch.setattr(Path, "replace", stop_and_replace)
    with pytest.raises(KeyboardInterrupt):
        write("new")
    assert [file.name for file in path.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_left_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "new" / "model.partial").mkdir(parents=True)
    (tmp_path / "new" / "model.partial" / "half").touch()
    with written_aside(tmp_path / "new" / "model") as aside:
        assert not aside.exists()
        aside.write_text("whole")
    assert (tmp_path / "new" / "model").read_text() == "whole"
