"""Every command of both packages on consoles that lack characters: those of Windows in Taiwan and in the West."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from taigi_lightning.cli.commands import COMMANDS, TOOLS
from tests.warm_python import Ended, WarmPython
from tests.working_folder import ROOT

BASE = str(ROOT / "models" / "tiny-taigi")
LATIN, ROMANISED = "Lí hó, chia̍h-pn̄g", "Tâi-uân"
HELP = [
    *(("taigi_lightning", *words) for words in ((), ("--help",), ("--version",))),
    *(("taigi_lightning", command, "--help") for command in (*COMMANDS, *TOOLS)),
    *(("corpus_tools", *words) for words in ((), ("--help",), ("--version",))),
    *(("corpus_tools", command, "--help") for command in ("clean", "preview", "sample")),
]
PLAN = (
    "taigi_lightning",
    "plan",
    "--config",
    "cpt.yaml",
    "--model.base",
    BASE,
    "--trainer.default_root_dir",
    "模ó𪜶",
)
# What each prints holds characters that cp950, cp1252 or both lack; the code it ends with.
MESSAGES: list[tuple[int, tuple[str, ...]]] = [
    (2, ("taigi_lightning", "試𪜶", "ó")),
    (1, ("taigi_lightning", "score", "毋知—ó.csv", "答案𪜶.csv")),
    (1, ("taigi_lightning", "score", "答案.csv", "答案2.csv")),
    (1, ("taigi_lightning", "card", "模型/𪜶 ó")),
    (1, ("taigi_lightning", "merge", "--adapter", "轉接器ó𪜶")),
    (2, ("taigi_lightning", "merge", "--台𪜶", "ó")),
    (1, ("taigi_lightning", "compare", "題目ó𪜶.csv", f"{{基: {BASE}}}")),
    (2, ("taigi_lightning", "fit", "--config", "設定ó𪜶.yaml")),
    (2, ("taigi_lightning", "fit", "--config", "臺𪜶ó.yaml")),
    (1, ("taigi_lightning", "validate", "--config", "cpt.yaml", "--model.base", "基ó𪜶")),
    (1, ("taigi_lightning", "test", "--config", "predict.yaml", "--model.base", "基ó𪜶")),
    (1, ("taigi_lightning", "predict", "--model.base", BASE, "--model.adapter", "配ó𪜶")),
    (0, PLAN),
    (0, ("corpus_tools", "preview", "文.json")),
    (0, ("corpus_tools", "clean", "資料", "--output_dir=語ó𪜶", "--workers=1", "--min_chars=5", "--skip_bad_files")),
    (1, ("corpus_tools", "clean", "無ó𪜶", "--output_dir", "語料2")),
    (1, ("corpus_tools", "clean", "壞", "--output_dir", "語料3", "--workers", "1")),
    (2, ("corpus_tools", "clean", "資料", "--ó𪜶", "1")),
    (0, ("corpus_tools", "sample", "樣本ó𪜶", "--articles", "1", "--questions", "1", "--test_questions", "1")),
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files that the messages speak of."""
    folder = tmp_path_factory.mktemp("console")
    text = f"1. 阮佇台南，伊講：「{LATIN}」……看 https://is.gd/x 後擺𪜶閣來。"
    rows = [
        {"title": f"{ROMANISED}{n}", "author": "阿明", "text": text + str(n), "paragraph_id": 1}
        for n in range(30)
    ]
    (folder / "資料").mkdir()
    for place in (folder / "文.json", folder / "資料" / "ó𪜶.json"):
        place.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    (folder / "資料" / "壞ó𪜶.json").write_text('[{"title": ', encoding="utf-8")
    (folder / "壞").mkdir()
    (folder / "壞" / "壞ó𪜶.json").write_text('[{"title": ', encoding="utf-8")
    (folder / "答案.csv").write_text("ID,答𪜶ó\nó𪜶,1\n", encoding="utf-8")
    (folder / "答案2.csv").write_text("ID,Answer\n無,1\n", encoding="utf-8")
    (folder / "臺𪜶ó.yaml").write_text(yaml.safe_dump({"鍵ó𪜶": 1}, allow_unicode=True), encoding="utf-8")
    return folder


@dataclass(frozen=True)
class Console:
    """Commands on a console of one encoding."""

    python: WarmPython
    encoding: str

    def run(self, package: str, arguments: Sequence[str], folder: Path) -> Ended:
        """Run one there."""
        return self.python.run(package, arguments, folder, self.encoding)


@pytest.fixture(params=["cp950", "cp1252"])
def console(request: pytest.FixtureRequest, warm_python: WarmPython) -> Console:
    return Console(warm_python, request.param)


def readable(ended: Ended, code: int) -> str:
    """What a command printed, which died of nothing and wrote nothing that its console cannot show."""
    printed = ended.out + ended.err
    assert "Traceback" not in printed, printed
    assert "�" not in printed, printed
    assert ended.code == code, printed
    return printed


def test_help_can_be_read(console: Console, folder: Path) -> None:
    for package, *arguments in HELP if console.encoding == "cp950" else HELP[::3]:
        readable(console.run(package, arguments, folder), 0 if arguments else 2)


@pytest.mark.parametrize(("code", "command"), MESSAGES, ids=[" ".join(command) for _, command in MESSAGES])
def test_messages_can_be_read(console: Console, folder: Path, code: int, command: tuple[str, ...]) -> None:
    package, *arguments = command
    printed = readable(console.run(package, arguments, folder), code)
    lacking = console.encoding == "cp1252" or "ó" in "".join(arguments)
    assert "\\" in printed or not (lacking and printed), printed


def test_a_preview_shows_taigi_and_escapes_the_rest(console: Console, folder: Path) -> None:
    printed = readable(console.run("corpus_tools", ["preview", "文.json"], folder), 0)
    assert ("阮佇台南" if console.encoding == "cp950" else r"\u962e\u4f47\u53f0\u5357") in printed


def test_a_plan_for_scripts_is_json_on_every_console(console: Console, folder: Path) -> None:
    ended = console.run(PLAN[0], [*PLAN[1:], "--json"], folder)
    readable(ended, 0)
    plan = json.loads(ended.out)
    assert any("模ó𪜶" in place["folder"] for place in plan["disk"])
