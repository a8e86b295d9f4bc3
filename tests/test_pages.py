"""What both packages' pages are made with: two copies, alike; and nothing hostile gets through a template."""

import base64
import csv
import re
from pathlib import Path

import jinja2
import pytest
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

import corpus_tools
import taigi_lightning
from corpus_tools.report import page as corpus_page
from corpus_tools.report.html_page import render_page
from taigi_lightning.demo_real import write_report
from taigi_lightning.evaluation.comparison_report import ComparedRow, write_comparison
from taigi_lightning.evaluation.scoring import score
from taigi_lightning.reports import page as model_page
from taigi_lightning.reports.html_page import question_card, write_page
from taigi_lightning.reports.model_card import model_card
from taigi_lightning.reports.page import as_csv
from taigi_lightning.reports.prediction_report import write_predict_report
from taigi_lightning.reports.svg_charts import Series, line_chart
from taigi_lightning.tasks.questions import Question
from tests.browser import check_page

SHARED = ("page.py", "templates/base.html", "templates/parts.html", "templates/style.css")
FOLDERS = (
    Path(corpus_tools.__file__).parent / "report",
    Path(taigi_lightning.__file__).parent / "reports",
)
MARKUP = "</script><script>alert(1)</script></style></title>"
HOSTILE = MARKUP + "\"'`<img src=x onerror=alert(1)>&\x00\x1b[2J\u202e\ud800{{ 7*7 }}"
UNSAFE = ("<script", "<img", "\x00", "\x1b", "\u202e", "\ud800", ">49<")


@pytest.mark.parametrize("name", SHARED)
def test_both_packages_pages_are_made_alike(name: str) -> None:
    one, other = (folder / name for folder in FOLDERS)
    assert one.read_bytes() == other.read_bytes(), f"change {name} in both packages"


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_template_takes_a_value_unescaped(folder: Path) -> None:
    for template in (folder / "templates").glob("*.html"):
        text = template.read_text(encoding="utf-8")
        assert not re.search(r"\|\s*safe|autoescape|<script", text), template
        assert not re.search(r"=\{\{", text), f"{template}: a value without quotes around it"


def no_harm(page: str) -> None:
    assert "&lt;/script&gt;" in page
    for text in UNSAFE:
        assert text not in page
    page.encode()  # no half of a character is left


def test_a_hostile_comparison_is_harmless(tmp_path: Path) -> None:
    row = ComparedRow(HOSTILE, 1, score([("1", 1)], [("1", 1)]), None, None, 1.0)
    write_comparison(tmp_path, [row], {HOSTILE: HOSTILE})
    no_harm(check_page(tmp_path / "comparison.html"))


def test_hostile_questions_names_and_charts_are_harmless(tmp_path: Path) -> None:
    question = Question(HOSTILE, HOSTILE * 9, HOSTILE, (HOSTILE,) * 4, 2, 1)
    chart = line_chart(HOSTILE, [Series(HOSTILE, [1, 2], [1.0, 2.0]), Series("b", [1], [1.0])], note=HOSTILE)
    answers = {"lead": HOSTILE, "cards": [question_card(question, (0.1, 0.2, 0.3, 0.4), 4, HOSTILE)]}
    piece = {"text": HOSTILE, "nats": "1.00", "shade": "12"}
    text = {"pieces": [piece], "mean": "1", "data": as_csv("a.csv", ["text"], [[HOSTILE]])}
    path = write_page(
        tmp_path / "report.html",
        "training.html",
        title=HOSTILE, heading=HOSTILE, lead=HOSTILE, facts={HOSTILE: HOSTILE}, figures={HOSTILE: HOSTILE},
        resumed_at="", charts=[chart], held_out_text=text, held_out_answers=answers,
        lineage=[(HOSTILE, HOSTILE)], config=HOSTILE, how_trained=[HOSTILE],
        written=[dict.fromkeys(("prompt", "before", "after", "goes_on"), HOSTILE)],
    )  # fmt: skip
    no_harm(check_page(path))


@pytest.mark.parametrize("generated", [False, True])
def test_hostile_predictions_are_harmless(tmp_path: Path, generated: bool) -> None:
    answers, details = tmp_path / "out.csv", tmp_path / "details.csv"
    answers.write_text("ID,Answer\n")
    name = HOSTILE.replace("\x00", "").replace("\ud800", "")  # a CSV file holds neither
    columns = ["ID", "Answer", *(f"Probability{n}" for n in range(1, 5)), "Margin", "AnswerByOrder", "Text"]
    with details.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*columns, "Fallbacks"])
        writer.writerow([name, 2, 0.1, 0.6, 0.2, 0.1, 0.4, "2", name if generated else "", 1])
    question = Question(name, HOSTILE * 9, HOSTILE, (HOSTILE,) * 4, 1, 1)
    no_harm(check_page(write_predict_report(answers, details, [question], {HOSTILE: HOSTILE})))


def test_hostile_stages_are_harmless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taigi_lightning.demo_real.NAMES", {"start": HOSTILE})
    for stage in ("cpt_model", "final_model"):
        (tmp_path / stage / "logs" / "version_0").mkdir(parents=True)
        log = "epoch,step,train/loss\n0,0,3.5\n0,1,2.5\n"
        (tmp_path / stage / "logs" / "version_0" / "metrics.csv").write_text(log)
    summary = {
        "perplexity_per_character": {"start": 2.0}, "accuracy": {"start": 0.5}, "kept": 1.0, "kept_4bit": 1.0,
        "kept_16bit": 1.0, "questions": HOSTILE, "prediction_accuracy": 0.5, "steps": HOSTILE, "tokens_a_step": 9,
        "device": HOSTILE, "seconds": 9, "model": HOSTILE,
    }  # fmt: skip
    path = write_report(tmp_path, summary)
    no_harm(check_page(path))


def test_a_hostile_card_is_harmless_as_a_page() -> None:
    base = {"name": HOSTILE, "quantization": HOSTILE}
    settings = {
        "data": {"class_path": "SFTDataModule", "init_args": {"max_length": HOSTILE}},
        "model": {"optimizer": {"class_path": HOSTILE}, "lr_scheduler": HOSTILE},
    }
    lineage = {"base": {**base, "lineage": {"base": base}}, "data": {"path": HOSTILE, "sha256": HOSTILE}}
    for adapter in (False, True):
        card = str(
            model_card(HOSTILE, lineage, settings, {"perplexity": HOSTILE}, HOSTILE, HOSTILE, adapter=adapter)
        )
        _, _, body = card.split("---\n", 2)
        shown = MarkdownIt("commonmark").enable("table").render(body)
        no_harm(shown)
        assert len(ModelCard(card).data.tags) == (2 if adapter else 1), "the header is read as it was meant"
        assert shown.count("<table>") == 1
        assert shown.count("<tr>") == 4, "a heading, three settings and no cell torn open"


def test_a_hostile_corpus_is_harmless() -> None:
    sample = {"source": HOSTILE, "title": HOSTILE, "before": HOSTILE + "a", "after": HOSTILE + "b"}
    rule = {"changes": 1, "characters_removed": 1, "stretches": {HOSTILE: 1}, "samples": [sample]}
    hit = {"question": HOSTILE, "source": HOSTILE, "row": 1, "title": HOSTILE, "shared": HOSTILE}
    report = {
        "options": {HOSTILE: HOSTILE}, "rows": {"read": 1, "kept": 1, "dropped": {HOSTILE: 1}},
        "characters": {"read": 1, "kept": 1, "removed_by_rule": {}, "dropped": {HOSTILE: 1}},
        "articles": {"read": 1, "simplified": 0, "converted": 0}, "documents": {"total": 1},
        "rules": {HOSTILE: rule}, "unknown_private_use": {HOSTILE: 1}, "replacement_characters": 0,
        "overlaps": [hit], "lengths": {"128": 1}, "taigi_scores": {}, "skipped_files": {HOSTILE: HOSTILE},
    }  # fmt: skip
    no_harm(render_page(report, [HOSTILE]))


def test_a_template_that_lacks_a_value_fails() -> None:
    with pytest.raises(jinja2.UndefinedError):
        model_page.render("comparison.html", title="a")
    with pytest.raises(jinja2.UndefinedError):
        corpus_page.render("corpus.html", title="a")


def test_the_saved_numbers_are_the_rows_in_utf_8() -> None:
    data = as_csv("a.csv", ["文", "n"], [['佇,"厝"', 1], ["x", None]])
    start, _, text = data.uri.partition(",")
    assert start == "data:text/csv;charset=utf-8;base64"
    assert base64.b64decode(text).decode("utf-8-sig") == '文,n\n"佇,""厝""",1\nx,\n'
    assert data.size == "2 lines"
    assert as_csv("a.csv", ["n"], [[n] for n in range(999)]).beginning.endswith("… and 800 lines more")
