"""The command as a user meets it: killed, on a full disk, with files that cannot be read."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from corpus_tools.__main__ import main
from corpus_tools.cli.workers import cores
from corpus_tools.sample.write import write_sample
from tests.corpus_tools.corpus_folder import LONG, contents, rows_of, write_rows

CLEAN = [sys.executable, "-m", "corpus_tools", "clean"]


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("raw")
    return write_sample(folder, articles=40, questions=4, test_questions=4) / "IMA-Taiwan"


@pytest.mark.posix("SIGKILL to a group of processes")
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


@pytest.mark.posix("a limit to the size of files")
def test_a_full_disk_is_named_and_leaves_the_earlier_corpus_untouched(raw: Path, tmp_path: Path) -> None:
    import resource  # no module of Windows

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


@pytest.mark.posix("a link to nothing")
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


def test_an_empty_result_names_what_was_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.json").write_text('[{"text": "\\ud800"}]')
    assert (
        main(["clean", str(tmp_path / "a.json"), "--output_dir", str(tmp_path / "out"), "--skip_bad_files"])
        == 1
    )
    error = capsys.readouterr().err
    assert "1 files or rows skipped (a.json: " in error and "half a surrogate pair" in error


@pytest.mark.parametrize(
    ("platform", "count", "used"), [("darwin", 8, 8), ("win32", 128, 61), ("darwin", None, 1)]
)
def test_all_cores_are_used_where_linux_does_not_tell_which(
    platform: str, count: int | None, used: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(os, "cpu_count", lambda: count)
    assert cores() == used


def test_an_empty_result_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_rows(tmp_path / "in" / "a.json", rows_of("甲", "短。"))
    assert main(["clean", str(tmp_path / "in"), "--output_dir", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert "no document left of 1 rows" in error and "too_short" in error


def test_rows_without_a_title_columns_that_are_not_there_and_files_not_read_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    lines = "".join(f"song{i % 2},Ysy moy a dir in tir na {i}\n" for i in range(9))
    (tmp_path / "in" / "a.csv").write_text(f"song,text\n{lines}", encoding="utf-8")
    (tmp_path / "in" / "b.md").write_text("a", encoding="utf-8")
    clean = ["clean", str(tmp_path / "in"), "--output_dir", str(tmp_path / "out")]
    assert main([*clean, "--fields.title=Song"]) == 1
    assert "No row has a title, so each is an article of its own" in capsys.readouterr().err
    assert main([*clean, "--fields.title=Song", "--min_chars=5"]) == 0
    said = capsys.readouterr().err
    assert "warning: no row has 'Song', which --fields.title names" in said
    assert (
        "warning: 1 file was not read, for its ending (.md) stands for no format that is known (b.md)" in said
    )
    assert main([*clean, "--fields.title=song"]) == 0
    assert "'song'" not in capsys.readouterr().err


def test_preview_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_rows(tmp_path / "a.json", rows_of("甲", "阮兜,看https://a.tw/b。"))
    before = path.read_bytes()
    assert main(["preview", str(path)]) == 0
    assert (
        "urls" in capsys.readouterr().out
        and path.read_bytes() == before
        and len(list(tmp_path.iterdir())) == 1
    )


def test_a_corpus_of_which_nearly_nothing_is_kept_warns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"text": f"第{i}條，一句爾。"} for i in range(200)]  # no titles: each a document of its own
    write_rows(tmp_path / "in" / "a.json", [*rows, *rows_of("甲", LONG * 4)])
    assert main(["clean", str(tmp_path / "in"), "--output_dir", str(tmp_path / "out")]) == 0
    error = capsys.readouterr().err
    assert "warning: only" in error and "too short" in error


@pytest.mark.posix("a file's name with an escape in it")
def test_names_of_files_and_titles_cannot_command_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, title = "a\x1b[31m.json", "甲\x1b]0;pwned\x07\x1b[2J\u202e"
    text = "阮兜\x1b[31m佇台南,伊佇\x9b31m高雄\r\u2028覆蓋。"
    path = write_rows(tmp_path / "in" / name, rows_of(title, text))
    assert main(["preview", str(path)]) == 0
    assert main(["clean", str(path), "--output_dir", str(tmp_path / "out")]) == 1
    (tmp_path / "in" / "\x1b[2J.json").write_text("[")
    arguments = ["clean", str(tmp_path / "in"), "--output_dir", str(tmp_path / "out")]
    assert main(arguments) == 1
    assert main([*arguments, "--skip_bad_files", "--min_chars", "1"]) == 0
    shown = "".join(capsys.readouterr())
    assert "\\x1b[2J.json" in shown and "\\x1b]0;pwned" in shown
    assert all(c == "\n" or c.isprintable() for c in shown if c != "\u3000")


def test_files_that_became_one_article_or_nothing_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for k in range(6):
        write_rows(tmp_path / "in" / f"{k}.json", rows_of("無題", f"{LONG}{k}" * 4))
    write_rows(tmp_path / "in" / "short.json", [{"text": f"第{i}條，一句爾。"} for i in range(120)])
    write_rows(tmp_path / "in" / "long.json", [{"text": f"{LONG}{i}" * 4} for i in range(20)])
    write_rows(tmp_path / "in" / "empty.json", [])
    assert main(["clean", str(tmp_path / "in"), "--output_dir", str(tmp_path / "out")]) == 0
    error = capsys.readouterr().err
    assert "of 1 of 9 files nearly nothing was kept (short.json)" in error
    assert "1 files have no rows (empty.json)." in error
    assert "6 files, 0.json the first, share titles" in error
    report = json.loads((tmp_path / "out" / "report.json").read_text("utf-8"))
    sources = {source["source"]: source for source in report["sources"]}
    assert sources["empty.json"]["rows"] == sources["empty.json"]["kept"] == 0
    assert sources["short.json"]["rows"] == 120 and sources["short.json"]["kept"] == 0
    assert sources["0.json"]["articles"] == 1 and sources["1.json"]["articles"] == 0
    assert sources["long.json"]["han"] == sources["long.json"]["kept"] == sources["long.json"]["characters"]
    assert sum(source["documents"] for source in sources.values()) == report["documents"]["total"]


def test_the_report_says_what_rows_were_taken_for_and_how_texts_are_written(tmp_path: Path) -> None:
    verse = ["一更更鼓月照山", "牽君的手摸心肝", "君來問娘欲按怎", "隨在阿君你心肝"]
    rows = [row for k in range(4) for row in rows_of(f"歌{k}", *(line + str(k) for line in verse * 5))]
    write_rows(tmp_path / "in" / "verse.json", rows)
    for name, text in (
        ("digits", "Goa2 bo5 beh khi3, li2 kam2 u7? "),
        ("roman", "Góa bô beh khì, lí kám ū? "),
    ):
        write_rows(tmp_path / "in" / f"{name}.json", rows_of(name, text * 9))
    write_rows(tmp_path / "in" / "mixed.json", rows_of("濫", "阮 bô 食飯，beh 轉去阮兜。" * 9))
    assert main(["clean", str(tmp_path / "in"), "--output_dir", str(tmp_path / "out")]) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text("utf-8"))
    sources = {source["source"]: source for source in report["sources"]}
    assert sources["verse.json"]["rows_are"] == {
        "kind": "line", "followed": 76, "open": 76, "length": 7, "open_length": 7,
            "overlapping": 0, "spaces": "unknown",
    }  # fmt: skip
    assert sources["digits.json"]["rows_are"]["kind"] == "window"
    for name, script in (
        ("digits", "tone_digits"),
        ("roman", "romanised"),
        ("mixed", "mixed"),
        ("verse", "han"),
    ):
        source = sources[f"{name}.json"]
        assert source[script] == source["kept"] > 0, name


RULES_CONFIG = """
optional_rules: [html, pages]
own_rules:
- name: notes
  pattern: （註[0-9]+）
  matches: [（註12）]
  leaves: [（註解）]
"""


def test_preview_counts_what_clean_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = [
        "阮兜佇台南,逐工<br>去公園,行路（註1）。",
        "中央。",
        "阮兜佇台南,逐工<br>去公園,行路（註1）。",
        "a@b.tw... 好",
    ]
    path = write_rows(tmp_path / "in" / "a.json", rows_of("甲", *texts))
    (tmp_path / "rules.yaml").write_text(RULES_CONFIG, encoding="utf-8")
    config = ["--config", str(tmp_path / "rules.yaml")]
    assert main(["preview", *config, str(path)]) == 0
    shown = capsys.readouterr().out
    out = tmp_path / "out"
    assert main(["clean", *config, str(path), "--output_dir", str(out), "--min_chars", "1"]) == 0
    rules = json.loads((out / "report.json").read_text("utf-8"))["rules"]
    assert {name: rule["changes"] for name, rule in rules.items()} == {
        "html": 2, "own_notes": 2, "half_width": 4, "ellipses": 1
    }  # fmt: skip
    simplified = "我们这个时候说话，还没听过这样的语言。" * 2
    (tmp_path / "b.txt").write_text(simplified, encoding="utf-8")
    assert main(["preview", str(tmp_path / "b.txt"), "--convert_simplified"]) == 0
    converted = capsys.readouterr().out
    assert "[-们这个时-]{+們這個時+}" in converted and "convert_simplified 26 in 1 line\n" in converted
    for name, rule in rules.items():
        assert f"{name} {rule['changes']} in " in shown
    assert "[-,-]{+，+}" in shown  # no terminal: no colours
    assert rules["own_notes"]["samples"][0]["before"].count("（註1）") == 1
