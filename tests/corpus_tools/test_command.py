"""The command as a user meets it: killed, on a full disk, with files that cannot be read."""

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from corpus_tools.__main__ import _cores, main
from corpus_tools.sample.write import write_sample
from tests.corpus_tools.corpus_folder import contents, rows_of, write_rows

CLEAN = [sys.executable, "-m", "corpus_tools", "clean"]


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("raw")
    return write_sample(folder, articles=40, questions=4, test_questions=4) / "IMA-Taiwan"


@pytest.mark.parametrize("step", ["clean", "write"])
def test_a_run_killed_outright_is_taken_up_again(step: str, raw: Path, tmp_path: Path) -> None:
    arguments = [str(raw), "--workers", "2", "--output_dir"]
    subprocess.run([*CLEAN, *arguments, str(tmp_path / "whole")], check=True, capture_output=True)
    killed = subprocess.Popen(
        [*CLEAN, *arguments, str(tmp_path / "killed")],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert killed.stderr is not None
    for line in killed.stderr:
        if line.startswith(step):
            break
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    subprocess.run([*CLEAN, *arguments, str(tmp_path / "killed")], check=True, capture_output=True)
    assert contents(tmp_path / "whole") == contents(tmp_path / "killed")


def test_a_full_disk_is_named_and_leaves_the_earlier_corpus_untouched(raw: Path, tmp_path: Path) -> None:
    assert main(["clean", str(raw), "--output_dir", str(tmp_path)]) == 0
    before = contents(tmp_path)
    full = subprocess.run(
        [*CLEAN, str(raw), "--output_dir", str(tmp_path), "--min_chars", "50"],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert full.returncode == 1 and "Traceback" not in full.stderr
    assert f"error: {tmp_path}: File too large; nothing was changed there." in full.stderr
    assert contents(tmp_path) == before


def test_a_file_that_cannot_be_read_is_an_error_and_may_be_skipped(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "good.json").write_bytes(max(raw.rglob("*.json"), key=lambda p: p.stat().st_size).read_bytes())
    (folder / "gone.json").symlink_to("nowhere.json")
    arguments = ["clean", str(folder), "--output_dir", str(tmp_path / "out"), "--skip_bad_files"]
    assert main(arguments[:-1]) == 1
    assert "gone.json: No such file" in capsys.readouterr().err
    assert main(arguments) == main([*arguments, "true"]) == 0
    assert "skipped gone.json" in capsys.readouterr().err
    report = json.loads((tmp_path / "out" / "report.json").read_text("utf-8"))
    assert list(report["skipped_files"]) == ["gone.json"]


@pytest.mark.parametrize(
    ("platform", "count", "used"), [("darwin", 8, 8), ("win32", 128, 61), ("darwin", None, 1)]
)
def test_all_cores_are_used_where_linux_does_not_tell_which(
    platform: str, count: int | None, used: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(os, "cpu_count", lambda: count)
    assert _cores() == used


def test_an_empty_result_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_rows(tmp_path / "in" / "a.json", rows_of("甲", "短。"))
    assert main(["clean", str(tmp_path / "in"), "--output_dir", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert "no document left of 1 rows" in error and "too_short" in error


@pytest.mark.parametrize(
    "arguments", [["--min_chars", "0"], ["--validation_fraction", "2"], ["--nonsense", "1"]]
)
def test_usage_errors_leave_with_2(arguments: list[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["clean", str(tmp_path), *arguments])
    assert exit_.value.code == 2


def test_preview_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_rows(tmp_path / "a.json", rows_of("甲", "阮兜,看https://a.tw/b。"))
    before = path.read_bytes()
    assert main(["preview", str(path)]) == 0
    assert (
        "urls" in capsys.readouterr().out
        and path.read_bytes() == before
        and len(list(tmp_path.iterdir())) == 1
    )
