"""Models side by side."""

import csv
import re
from pathlib import Path
from xml.etree import ElementTree

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from taigi_lightning.comparing import compare_command
from taigi_lightning.comparison_report import ComparedRow, comparison_html, interval_plot
from taigi_lightning.errors import InputError
from taigi_lightning.scoring import score

ANSWERED = ["文章", "問題", "選項1", "選項2", "選項3", "選項4", "正確答案"]


def write_questions(path: Path, count: int, place: str) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(ANSWERED)
        for row in range(count):
            writer.writerow(
                [f"阮兜蹛佇{place}{row}。", "佗位？", "市仔", "學校", f"厝{row}", "海邊", row % 4 + 1]
            )
    return path


@pytest.fixture
def comparison(tmp_path: Path, tiny_llama_dir: Path) -> Path:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    pq.write_table(pa.table({"text": ["早起時仔，阿母煮糜。"]}), corpus / "validation-00000-of-00001.parquet")
    compare_command(
        write_questions(tmp_path / "asked.csv", 8, "台南"),
        {"base": str(tiny_llama_dir), "same": str(tiny_llama_dir)},
        output=tmp_path / "comparison",
        shots=[0, 2],
        examples=write_questions(tmp_path / "examples.csv", 9, "台北"),
        corpus=corpus,
        quantization="none",
    )
    return tmp_path / "comparison"


def test_every_model_with_every_number_of_examples(comparison: Path) -> None:
    with (comparison / "comparison.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["Model"], row["Shots"]) for row in rows] == [
        ("base", "0"), ("base", "2"), ("same", "0"), ("same", "2"),
    ]  # fmt: skip
    assert {row["Total"] for row in rows} == {"8"}
    assert {row["PValue"] for row in rows} == {"1"}
    assert len({row["PerplexityPerCharacter"] for row in rows}) == 1
    assert float(rows[0]["PerplexityPerCharacter"]) > 1
    one, other = (comparison / f"predictions/{name}-0-shot.csv" for name in ("base", "same"))
    assert one.read_bytes() == other.read_bytes()


def test_the_page_needs_nothing_else(comparison: Path) -> None:
    page = (comparison / "comparison.html").read_text(encoding="utf-8")
    assert "<svg" in page
    assert not re.search(r"https?://|<script|<link|src=", page)


def test_the_plot_draws_accuracy_and_interval_to_scale() -> None:
    answers = [(str(n), 1) for n in range(10)]
    half = score([(str(n), 1 + n % 2) for n in range(10)], answers)
    row = ComparedRow("<b>", 3, half, 1.0, None, 0.0)
    picture = ElementTree.fromstring(interval_plot([row]))
    (circle,) = picture.iter("circle")
    assert float(circle.attrib["cx"]) == pytest.approx(220 + 560 * 0.5)
    assert any(text.text == "<b>, 3-shot" for text in picture.iter("text"))
    assert "&lt;b&gt;" in comparison_html([row])


def test_a_missing_model_is_named_before_anything_runs(tmp_path: Path, tiny_llama_dir: Path) -> None:
    asked = write_questions(tmp_path / "asked.csv", 4, "台南")
    with pytest.raises(InputError, match="holds no adapter_config"):
        compare_command(asked, {"a": f"{tiny_llama_dir}+{tmp_path}"}, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()
