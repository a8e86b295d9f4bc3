"""What streams, configs and tables hold is read and written in any system's encoding, or the encoding is named."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from corpus_tools.files.readers import read_rows
from corpus_tools.files.sources import Source
from corpus_tools.filtering.decontamination import read_questions
from taigi_lightning import windows
from taigi_lightning.tasks.question_files import read_table
from taigi_lightning.windows import config_text, other_encoding
from tests.working_folder import ROOT

# ---- streams ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encoding", "printed"),
    [
        ("cp950", "Lí hó，阮佇台南 — 𪜶 … é\udc80".replace("í", r"\xed").replace("ó", r"\xf3")),
        ("cp1252", r"Lí hó\uff0c\u962e\u4f47\u53f0\u5357 — \U0002a736 … é" + "\\udc80"),
        ("ascii", r"L\xed h\xf3\uff0c\u962e\u4f47\u53f0\u5357 - \U0002a736 ... \xe9" + "\\udc80"),
        ("utf-8", "Lí hó，阮佇台南 — 𪜶 … é\\udc80"),
    ],
)
def test_a_stream_takes_what_its_encoding_lacks(
    monkeypatch: pytest.MonkeyPatch, encoding: str, printed: str
) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
    windows.print_what_streams_lack()
    print("Lí hó，阮佇台南 — 𪜶 … é\udc80", end="", flush=True)
    if encoding == "cp950":
        printed = printed.replace("𪜶", r"\U0002a736").replace("é", r"\xe9").replace("\udc80", r"\udc80")
    assert raw.getvalue().decode(encoding) == printed


def test_a_process_without_streams_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)  # pythonw
    windows.print_what_streams_lack()


# ---- configs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_config_is_read_as_powershell_or_an_editor_saved_it(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.yaml").write_bytes("columns:\r\n  文章: 內容\r\n".encode(encoding))
    assert config_text(tmp_path / "a.yaml") == "columns:\n  文章: 內容\n"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_both_command_lines_read_configs_in_utf8_whatever_the_system_has(
    tmp_path: Path, encoding: str
) -> None:
    """With ASCII as the system's encoding, Python's own `open` would fail on these."""
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.json").write_text('[{"題": "一", "文": "阿明下晡欲去市仔。"}]', encoding="utf-8")
    texts = {
        "clean.yaml": "fields: {text: 文, title: 題}\nmin_chars: 5\nvalidation_fraction: 0\n",
        "sft.yaml": "data: {class_path: SFTDataModule, init_args: {columns: {文章: 沒有的欄}, train_file: q.csv}}\n",
    }
    for name, text in texts.items():
        (tmp_path / name).write_bytes(text.replace("\n", "\r\n").encode(encoding))
    (tmp_path / "q.csv").write_text("文章,問題\n一,二\n", encoding="utf-8")
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(ROOT)}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", *arguments]
        return subprocess.run(
            command, cwd=tmp_path, env={**os.environ, **ascii_only}, capture_output=True, text=True, check=False
        )  # fmt: skip

    cleaned = run(
        "corpus_tools", "clean", "--config", "clean.yaml", "raw", "--output_dir", "corpus", "--workers", "1"
    )
    assert cleaned.returncode == 0, cleaned.stderr
    base = str(ROOT / "models" / "tiny-taigi")
    refused = run("taigi_lightning", "fit", "--config", "sft.yaml", "--model.base", base)
    assert r"\u6c92\u6709\u7684\u6b04" in refused.stderr, refused.stderr


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("文章,問題,選項1\n阿明下晡欲去市仔買菜。".encode("cp950"), "reads as Big5 (cp950)"),
        ("文章,問題".encode("utf-16"), "It is UTF-16"),
        ("Lí hó, chia̍h-pn̄g".encode()[:-1] + b"\xff", ""),
        ("El niño comió, después".encode("cp1252"), ""),
        (b"\xff\xfe\xff", "It is UTF-16"),
    ],
)
def test_a_text_in_another_encoding_is_named_where_it_can_be(data: bytes, said: str) -> None:
    found = other_encoding(data)
    assert said in found if said else not found


@pytest.mark.parametrize("reader", ["questions", "corpus", "decontaminate"])
def test_every_reader_of_csv_says_how_to_save_it_again(tmp_path: Path, reader: str) -> None:
    path = tmp_path / "q.csv"
    path.write_bytes("文章,問題,title,text\n阿明,佗位,甲,阮佇遮\n".encode("cp950"))
    read = {
        "questions": lambda: read_table(path),
        "corpus": lambda: read_rows(Source("q.csv", path), {}),
        "decontaminate": lambda: read_questions(path, 13),
    }[reader]
    with pytest.raises(ValueError, match=r"not UTF-8.*Big5 \(cp950\).*choose “CSV UTF-8”"):
        read()


def test_our_packages_name_the_encoding_of_what_they_open(tmp_path: Path) -> None:
    if not sys.flags.warn_default_encoding:
        pytest.skip("PYTHONWARNDEFAULTENCODING=1 is not set, as make test sets it")
    code = compile("path.write_text('a')", "x", "exec")
    exec(code, {"__name__": "a_library", "path": tmp_path / "a.txt"})
    for package in ("taigi_lightning", "corpus_tools.files"):
        with pytest.raises(EncodingWarning):
            exec(code, {"__name__": f"{package}.module", "path": tmp_path / "b.txt"})
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
