"""What Windows does otherwise, as far as another system can show it."""

import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import corpus_tools.windows
import taigi_lightning.windows
from taigi_lightning import windows
from taigi_lightning.atomic_write import write_json
from taigi_lightning.cli.machine_errors import explain
from taigi_lightning.cli.run_checks import check_trainer
from taigi_lightning.errors import InputError
from taigi_lightning.model.lineage import base_identity, describe_sources
from taigi_lightning.planning.disk import free_space
from taigi_lightning.windows import (
    in_use,
    name_problem,
    path_problem,
    patiently,
)  # fmt: skip
from tests.working_folder import ROOT


def test_both_packages_have_the_same_file() -> None:
    one, other = (Path(str(m.__file__)) for m in (corpus_tools.windows, taigi_lightning.windows))
    assert one.read_bytes() == other.read_bytes(), "change windows.py in both packages"


@pytest.fixture
def on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the module take the branches of Windows, on which paths are short and no time is lost."""
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(windows, "_takes_long_paths", lambda: False)
    monkeypatch.setattr(windows, "_PAUSES", (0.0, 0.0))


# ---- files in use -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("on_windows")
def test_a_file_that_a_scanner_holds_is_tried_again() -> None:
    failures = [PermissionError(13, "in use"), PermissionError(13, "in use")]

    def action() -> str:
        if failures:
            raise failures.pop()
        return "done"

    assert patiently(action) == "done"
    failures += [PermissionError(13, "in use")] * 9
    with pytest.raises(PermissionError):
        patiently(action)


def test_elsewhere_a_refusal_stands() -> None:
    calls = []

    def action() -> None:
        calls.append(1)
        raise PermissionError

    with pytest.raises(PermissionError):
        patiently(action)
    assert len(calls) == 1


def test_a_file_that_is_free_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("ID")
    assert not in_use(tmp_path / "a.csv")
    assert not in_use(tmp_path / "none.csv")
    assert (tmp_path / "a.csv").read_text() == "ID"


# ---- names that move to other systems -----------------------------------------------------------------


@pytest.mark.posix("a name with a backslash in it")
def test_a_lineage_names_folders_so_that_every_system_finds_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_llama_dir: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models\\base").symlink_to(tiny_llama_dir)  # as Windows would understand this name
    (tmp_path / "data\\q.csv").write_text("ID")
    monkeypatch.setattr(sys, "platform", "win32")
    assert base_identity("models\\base")["name"] == "models/base"
    assert describe_sources(["data\\q.csv"])["path"] == "data/q.csv"
    monkeypatch.setattr(sys, "platform", "linux")
    assert base_identity("models\\base")["name"] == "models\\base"


# ---- several GPUs -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("system", "devices", "nodes", "left"),
    [
        ("win32", "auto", 1, 1),
        ("win32", -1, 1, 1),
        ("win32", "1", 1, "1"),
        ("win32", [3], 1, [3]),
        ("win32", 2, 1, None),
        ("win32", "0,1", 1, None),
        ("win32", 1, 2, None),
        ("linux", "auto", 1, "auto"),
        ("linux", 2, 2, 2),
    ],
)
def test_several_gpus_train_together_where_pytorch_lets_them(
    monkeypatch: pytest.MonkeyPatch, system: str, devices: Any, nodes: int, left: Any
) -> None:
    monkeypatch.setattr(sys, "platform", system)
    trainer = SimpleNamespace(
        devices=devices, num_nodes=nodes, accelerator="gpu", default_root_dir=None, strategy="auto"
    )
    if left is None:
        with pytest.raises(InputError, match=r"NCCL is not in it.*--trainer.devices 1, or train under WSL2"):
            check_trainer(trainer)
    else:
        check_trainer(trainer)
        assert trainer.devices == left


# ---- refusals -----------------------------------------------------------------------------------------


class WindowsError(OSError):
    """An error as Windows raises it, which has a number of its own beside that of POSIX."""

    def __init__(self, kind: type[OSError], code: int, name: str | None = None) -> None:
        number = {PermissionError: 13, FileNotFoundError: 2}.get(kind, 22)
        super().__init__(number, f"[WinError {code}]", name)
        self.winerror = code


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (32, "another program has it open"),
        (33, "another program has it open"),
        (1224, "another program has it open"),
        (5, "read-only, open in another program"),
        (206, "longer than the 259 characters"),
        (112, "disk is full"),
        (39, "disk is full"),
        (1455, "paging file"),
        (126, "Visual C\\+\\+ Redistributable"),
        (21, "drive or network folder is not there"),
        (53, "drive or network folder is not there"),
        (362, "OneDrive has not fetched it"),
        (123, "no name for a file"),
    ],
)
def test_a_refusal_of_windows_is_explained_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, code: int, said: str
) -> None:
    kind = {5: PermissionError, 32: PermissionError, 206: FileNotFoundError}.get(code, OSError)
    assert re.search(said, str(explain(WindowsError(kind, code))))
    told_by_rust = RuntimeError(f"Error while opening the file (os error {code})")
    assert explain(told_by_rust) is None
    monkeypatch.setattr(sys, "platform", "win32")
    assert re.search(said, str(explain(told_by_rust)))
    assert corpus_tools.windows.explain_windows(told_by_rust) == windows.explain_windows(told_by_rust)


def test_a_path_that_is_too_long_is_not_said_to_be_missing() -> None:
    assert "259 characters" in str(explain(WindowsError(FileNotFoundError, 3, "C:\\" + "x" * 270)))
    assert explain(WindowsError(FileNotFoundError, 2, str(ROOT / "README.md"))) is None


def test_a_drive_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "is_dir", lambda _: False)
    with pytest.raises(InputError, match="is no drive or network folder here"):
        free_space("models/cpt")
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(windows, "_takes_long_paths", lambda: True)
    assert "no drive or network folder" in str(path_problem(Path("models/cpt")))


# ---- paths --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["a<b", "x|y", "runs/what?", "a*", "com1", "LPT9.log", "NUL", "nul.txt", "aux .csv", "v1./x", "end ", "con/x",
     "a\tb", "C:\\runs\\12:30", "\\\\server\\share\\prn"],
)  # fmt: skip
def test_names_that_windows_refuses_or_changes(name: str) -> None:
    assert name_problem(name)


@pytest.mark.parametrize(
    "name",
    ["C:\\Users\\王小明\\taigi", "D:models", "..\\.\\a.b", "data/output-CPT&SFT_V2.csv", "console", "com10",
     "nulla.txt",     "\\\\server\\share\\x", "台語 (2)", "val_loss=1.25-step=3.ckpt", ".lock"],
)  # fmt: skip
def test_names_that_windows_takes(name: str) -> None:
    assert name_problem(name) is None


@pytest.mark.usefixtures("on_windows")
def test_a_path_that_is_too_long_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    long = tmp_path / ("長" * 120) / ("x" * 100)
    assert f"has {len(str(long))} characters" in str(path_problem(long))
    with pytest.raises(InputError, match="Give a shorter folder, or switch on long paths"):
        write_json(long / "scores.json", {})
    assert not any(tmp_path.iterdir())
    assert path_problem(Path("models/cpt")) is None


def test_other_systems_take_such_paths(tmp_path: Path) -> None:
    write_json(tmp_path / "a:b" / ("x" * 200) / "s.json", {})
    assert path_problem(Path("aux/a:b")) is None
