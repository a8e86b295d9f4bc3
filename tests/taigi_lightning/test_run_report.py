"""Reports of runs: complete, self-contained, and as wide as a phone."""

import csv
import os
import re
import shutil
import struct
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from taigi_lightning.errors import InputError
from taigi_lightning.questions import Question
from taigi_lightning.run_report import write_fit_report, write_predict_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
VOID = {"meta", "path", "circle", "rect"}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run's folder: 60 steps, two validations, a config."""
    logs = tmp_path / "cpt_model" / "logs" / "version_0"
    logs.mkdir(parents=True)
    lines = ["epoch,step,train/loss,train/learning_rate,train/tokens_per_second,val/loss,val/accuracy"]
    lines += [f"0,{step},{3 - step / 40},{2e-4 * step / 60},{8000 + step}," + "," for step in range(60)]
    lines += ["0,29,,,,2.5,0.5", "0,59,,,,2.25,0.75"]
    (logs / "metrics.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "cpt_model" / "config.yaml").write_text("model:\n  base: <b> & co\n")
    return tmp_path / "cpt_model"


@pytest.fixture
def predictions(tmp_path: Path) -> tuple[Path, Path, list[Question]]:
    """Three answered questions: right and certain, wrong and certain, undecided."""
    shares = [(0.9, 0.05, 0.03, 0.02), (0.02, 0.95, 0.02, 0.01), (0.26, 0.25, 0.25, 0.24)]
    questions = [
        Question(f"id-{n}", f"阮兜 {n} <b>", "啥人？", ("阿公", "阿媽", "厝--lìn", ""), 1, n)
        for n in (1, 2, 3)
    ]
    answers, details = tmp_path / "out.csv", tmp_path / "out.probabilities.csv"
    answers.write_text("ID,Answer\nid-1,1\nid-2,2\nid-3,1\n")
    names = [f"Probability{place}" for place in (1, 2, 3, 4)]
    with details.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["ID", "Answer", *names, "Margin", "AnswerByOrder", "Text", "Fallbacks"])
        for question, row in zip(questions, shares, strict=True):
            first, second = sorted(row, reverse=True)[:2]
            writer.writerow([question.id, row.index(first) + 1, *row, first - second, "1", "", 0])
    return answers, details, questions


class Balance(HTMLParser):
    """Whether every element that is opened is closed in its turn."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


def check_page(path: Path) -> str:
    page = path.read_text(encoding="utf-8")
    assert not Balance(page).open
    assert not re.search(r"<script|https?://|src=|@import|url\(", page), "the page must need nothing else"
    assert "prefers-color-scheme:dark" in page
    assert not list(path.parent.glob("*.partial"))
    return page


def test_a_training_report_shows_every_logged_course(run: Path) -> None:
    page = check_page(write_fit_report(run))
    for words in ["Loss", "Learning rate", "Tokens per second", "Validation accuracy", "75.0%", "2.250"]:
        assert words in page
    assert "Gradient norm" not in page, "nothing was logged of it"
    assert page.count("<svg") == 4
    assert "&lt;b&gt; &amp; co" in page


def test_a_folder_without_a_log_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no logs"):
        write_fit_report(tmp_path)


def test_a_prediction_report_shows_passages_and_probabilities(
    predictions: tuple[Path, Path, list[Question]],
) -> None:
    report = write_predict_report(*predictions)
    assert report.name == "out.report.html"
    page = check_page(report)
    for words in ["66.7%", "阮兜 1 &lt;b&gt;", "厝--lìn", "95.0%", "wrong, right is 1"]:
        assert words in page
    wrong = page[page.index("Wrong, and most certain") : page.index("Least certain")]
    assert "id-2" in wrong
    assert "id-1" not in wrong
    assert page.index("id-3", page.index("Least certain")) < page.index("id-1", page.index("Least certain"))


def test_a_prediction_report_without_known_answers_claims_none(
    predictions: tuple[Path, Path, list[Question]],
) -> None:
    answers, details, questions = predictions
    blank = [Question(q.id, q.passage, q.question, q.options, None, q.row) for q in questions]
    page = check_page(write_predict_report(answers, details, blank))
    assert ">right<" not in page
    assert "Wrong" not in page


def test_a_question_without_a_prediction_is_named(predictions: tuple[Path, Path, list[Question]]) -> None:
    answers, details, questions = predictions
    more = [*questions, Question("id-9", "", "", ("", "", "", ""), None, 4)]
    with pytest.raises(InputError, match="id-9"):
        write_predict_report(answers, details, more)


@pytest.mark.skipif(CHROMIUM is None and not os.environ.get("CI"), reason="no chromium on this machine")
@pytest.mark.parametrize("width", [360, 1200])
def test_a_browser_shows_both_pages_without_scrolling_sideways(
    run: Path, predictions: tuple[Path, Path, list[Question]], width: int, tmp_path: Path
) -> None:
    assert CHROMIUM is not None, "CI must install chromium"
    for page in (write_fit_report(run), write_predict_report(*predictions)):
        # A frame is as narrow as a phone even where the browser's own window cannot be.
        frame = tmp_path / "frame.html"
        frame.write_text(
            f'<iframe id=f src="{page.as_uri()}" style="width:{width}px;height:800px;border:0"></iframe>'
            "<script>f.onload=()=>{const d=f.contentDocument.documentElement;"
            "document.title=d.scrollWidth+' '+d.clientWidth+' '+"
            "[...f.contentDocument.querySelectorAll('svg')].every(s=>s.getBoundingClientRect().height>100)}"
            "</script>"
        )
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        command = [
            CHROMIUM,
            *options,
            "--allow-file-access-from-files",
            f"--user-data-dir={tmp_path / 'profile'}",
        ]
        shown = subprocess.run(
            [*command, "--virtual-time-budget=3000", "--dump-dom", frame.as_uri()],
            capture_output=True, text=True, timeout=120, check=True,
        ).stdout  # fmt: skip
        title = re.search(r"<title>(\d+) (\d+) (\w+)</title>", shown)
        assert title is not None, shown[-500:]
        assert int(title[1]) <= int(title[2]) <= width
        assert title[3] == "true"
        picture = tmp_path / "page.png"
        subprocess.run(
            [*command, f"--screenshot={picture}", "--window-size=500,800", page.as_uri()],
            capture_output=True, timeout=120, check=True,
        )  # fmt: skip
        data = picture.read_bytes()
        assert struct.unpack(">II", data[16:24]) == (500, 800)
        assert len(data) > 10_000, "an empty page compresses to less"
