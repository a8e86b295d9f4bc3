"""Names and texts that are HTML or steer a terminal, through both packages' commands: pages and messages stay whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from tests.browser import check_page
from tests.test_pages import UNSAFE
from tests.warm_python import WarmPython
from tests.working_folder import ROOT, TEXT

pytestmark = pytest.mark.posix("names that Windows refuses")

# As a path it closes what a page stands in, opens another element and closes an attribute; the rest is the terminal's.
TAGS = "a</script><script>alert(1)</script></style>"
STEERING = "\x1b[31m\x07\x9b2K\u202e"
NAME = f"\"'><img src=x onerror=alert(1)>{STEERING}{{{{ 7*7 }}}}"
HOSTILE = TAGS + NAME
TINY = ["--config", "configs/cpt.yaml", "--config", "configs/tiny.yaml"]
ASKED = "ID,前文,題幹,選項1,選項2,選項3,選項4,正確答案,選項5\n"


def quoted(text: str) -> str:
    """A value as YAML has it on a command line."""
    return json.dumps(text)


def said(python: WarmPython, folder: Path, command: str, *arguments: str, code: int = 0) -> str:
    """What a command prints, which steers no terminal; a bar's carriage returns are Python's own."""
    ended = python.run(command.split(maxsplit=1)[0], [*command.split()[1:], *arguments], folder)
    printed = ended.out + ended.err
    assert ended.code == code, printed
    assert not [c for c in printed if not c.isprintable() and c not in "\n\r"], printed
    return printed


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_llama_dir: Path) -> Path:
    """Raw articles, a base and questions, each under a hostile name."""
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "configs").symlink_to(ROOT / "configs")
    raw, base = folder / "raw" / HOSTILE, folder / "base" / HOSTILE
    for place in (raw, base.parent):
        place.mkdir(parents=True)
    base.symlink_to(tiny_llama_dir)
    rows = [
        {"title": f"{HOSTILE}{n}", "author": HOSTILE, "text": f"{TEXT * 3}{HOSTILE}{n}", "paragraph_id": 1}
        for n in range(60)
    ]
    (raw / f"{NAME}.json").write_text(json.dumps(rows), encoding="utf-8")
    (raw / f"{NAME}2.json").write_text("[{", encoding="utf-8")
    cells = ",".join('"' + HOSTILE.replace('"', '""') + '"' for _ in range(4))
    questions = "".join(f'"{NAME.replace(chr(34), chr(34) * 2)}{n}",{cells},,2,1,5\n' for n in range(3))
    (raw / f"{NAME}.csv").write_text(ASKED + questions, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def printed(folder: Path, warm_python: WarmPython) -> dict[str, str]:
    """What the commands of a whole project print, by command."""
    clean = ["--output_dir", f"corpus/{HOSTILE}", "--workers", "1", "--skip_bad_files"]
    raw, run, base, corpus = (f"{name}/{HOSTILE}" for name in ("raw", "run", "base", "corpus"))
    questions = f"{raw}/{NAME}.csv"
    # Only the articles: questions are of another kind.
    moved = folder / raw / f"{NAME}.csv"
    aside = moved.rename(folder / "questions.csv")
    found = {"clean": said(warm_python, folder, "corpus_tools clean", raw, *clean)}
    aside.rename(moved)
    fit = [*TINY, "--model.base", base, "--trainer.max_steps", "1", "--trainer.default_root_dir", run]
    fit += ["--data.data_dir", f"{{{quoted(corpus)}: 1}}", "--data.max_length", "128", "--model.lora.r", "2"]
    found["fit"] = said(warm_python, folder, "taigi_lightning fit", *fit)
    asked = ["--model.base", base, "--model.adapter", f"{run}/adapter", "--data.questions", questions]
    asked += ["--trainer.callbacks.output", f"out/{NAME}.csv", "--trainer.accelerator", "cpu"]
    found["predict"] = said(warm_python, folder, "taigi_lightning predict", *asked)
    models = f"{{{quoted(NAME)}: {quoted(base)}}}"
    found["compare"] = said(warm_python, folder, "taigi_lightning compare", questions, models)
    found["score"] = said(
        warm_python,
        folder,
        "taigi_lightning score",
        f"out/{NAME}.csv",
        questions,
        "--against",
        f"out/{NAME}.csv",
    )
    return found


def test_nothing_that_is_said_steers_the_terminal(printed: dict[str, str]) -> None:
    for command, text in printed.items():
        assert r"\x1b[31m" in text.replace("\n", ""), command  # the name is there, and can be read
    assert "empty" in printed["predict"], "warned of in the file's name"


def test_every_page_is_harmless(printed: dict[str, str], folder: Path) -> None:
    pages = sorted(folder.rglob("*.html"))
    assert len(pages) == 4, pages  # of the corpus, the run, the predictions and the comparison
    for path in pages:
        page = check_page(path)
        assert "&lt;img" in page, path
        for text in UNSAFE:
            assert text not in page, (path, text)


def test_every_card_is_harmless(printed: dict[str, str], folder: Path) -> None:
    cards = sorted(folder.glob("run/**/README.md"))
    assert len(cards) == 2, cards  # of the adapter and the merged model
    for path in cards:
        _, _, body = path.read_text(encoding="utf-8").split("---\n", 2)
        shown = MarkdownIt("commonmark").enable("table").render(body)
        for text in UNSAFE:
            assert text not in shown, (path, text)
