"""Models side by side."""

import csv
from io import StringIO
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from taigi_lightning.errors import InputError
from taigi_lightning.evaluation import model_setup
from taigi_lightning.evaluation.compare import Settings, compare_command, load
from taigi_lightning.evaluation.comparison_report import ComparedRow, comparison_table, interval
from taigi_lightning.evaluation.scoring import score
from taigi_lightning.kernels.host_memory import held_in_place
from tests.browser import CHROMIUM, check_page, check_width

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
    assert [row["PValue"] for row in rows] == ["", "", "1", "1"]  # the first is compared with nothing
    assert len({row["PerplexityPerCharacter"] for row in rows}) == 1
    assert float(rows[0]["PerplexityPerCharacter"]) > 1
    one, other = (comparison / f"predictions/{name}-0-shot.csv" for name in ("base", "same"))
    assert one.read_bytes() == other.read_bytes()


def test_a_model_too_large_for_the_card_waits_on_the_host(
    tiny_llama_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[object, int]] = []

    def on_a_small_card(_base: str, weights_on_host: object, *_: object, tokens: int, **__: object) -> bool:
        asked.append((weights_on_host, tokens))
        return True

    monkeypatch.setattr(model_setup, "starts_on_host", on_a_small_card)
    model, _ = load(str(tiny_llama_dir), Settings("nf4", 512, 4096))
    assert asked == [("auto", 4096)]
    assert any(map(held_in_place, model.modules()))


def test_the_page_is_whole_and_fits_a_phone(comparison: Path, tmp_path: Path) -> None:
    page = check_page(comparison / "comparison.html")
    assert "Accuracy on 8 questions" in page
    for words in ("<dt>model same</dt>", "asked.csv</dd>", 'download="comparison.csv"', "scrolls sideways"):
        assert words in page
    if CHROMIUM is not None:
        check_width(comparison / "comparison.html", 360, tmp_path)


def test_the_plot_draws_accuracy_and_interval_to_scale() -> None:
    answers = [(str(n), 1) for n in range(10)]
    half = score([(str(n), 1 + n % 2) for n in range(10)], answers)
    drawn = interval(ComparedRow("a", 3, half, None, None, 0.0))
    low, width = float(drawn["low"]), float(drawn["width"])
    assert (low, low + width) == pytest.approx((23.66, 76.34), abs=0.01)  # Wilson's interval of 5 in 10
    assert (drawn["place"], drawn["examples"]) == ("50.00", "3 solved examples")


def test_the_table_fits_a_terminal() -> None:
    even = score([(str(n), n % 4 + 1) for n in range(1001)], [(str(n), n % 4 + 1) for n in range(1001)])
    console = Console(width=80, record=True, file=StringIO())
    console.print(comparison_table([ComparedRow("Taigi-Llama", 3, even, 0.0123, 1830.38, 0.0)]))
    assert "Taigi-Llama" in console.export_text(clear=False)
    assert len(console.export_text().splitlines()) == 5  # no cell is broken


def test_a_missing_model_is_named_before_anything_runs(tmp_path: Path, tiny_llama_dir: Path) -> None:
    asked = write_questions(tmp_path / "asked.csv", 4, "台南")
    with pytest.raises(InputError, match="holds no adapter_config"):
        compare_command(asked, {"a": f"{tiny_llama_dir}+{tmp_path}"}, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("models", "message"), [({}, "no model to compare"), ({"org/base": "x"}, "'org/base' cannot begin")]
)
def test_names_that_cannot_be_files_are_refused(models: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        compare_command(write_questions(tmp_path / "asked.csv", 4, "台南"), models, output=tmp_path / "out")


def test_answers_to_other_questions_are_refused_before_any_model_is_read(tmp_path: Path) -> None:
    asked = write_questions(tmp_path / "asked.csv", 4, "台南")
    answers = tmp_path / "answers.csv"
    answers.write_text("ID,Answer\n1,1\n2,1\n3,1\n9,1\n")
    with pytest.raises(InputError, match=r"1 ID \(9\) missing from .*asked\.csv"):
        compare_command(asked, {"a": "no/model"}, answers=answers, output=tmp_path / "out")
