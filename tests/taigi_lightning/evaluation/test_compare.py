"""Models side by side."""

import csv
import json
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from transformers import AutoTokenizer

from taigi_lightning.errors import InputError
from taigi_lightning.evaluation import model_setup
from taigi_lightning.evaluation.compare import compare_command
from taigi_lightning.evaluation.compare_written import encode_task, read_task
from taigi_lightning.evaluation.compared_models import Settings, load
from taigi_lightning.evaluation.comparison_report import ComparedRow, comparison_table, interval
from taigi_lightning.evaluation.scoring import score
from taigi_lightning.evaluation.text_scores import read_written, score_texts
from taigi_lightning.kernels.host_memory import held_in_place
from taigi_lightning.tasks.conversation_forms import InstructionTemplate
from taigi_lightning.tasks.conversation_tokens import encode_conversation_example, encode_open_conversation
from taigi_lightning.tasks.prompts import IGNORE
from tests.browser import CHROMIUM, check_page, check_width
from tests.taigi_lightning.tasks.test_chat_template import TEMPLATES

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


def write_turns(path: Path) -> Path:
    """Six conversations, of which one has an earlier exchange; the last answers are the references."""
    rows: list[dict[str, object]] = [
        {
            "messages": [
                {"role": "user", "content": f"第{n}題"},
                {"role": "assistant", "content": f"答案{n}。"},
            ]
        }
        for n in range(5)
    ]
    turns = ("食飽未？", "食飽矣。", "欲去佗位？", "市仔。")
    roles = ("user", "assistant") * 2
    rows.append({"messages": [{"role": r, "content": t} for r, t in zip(roles, turns, strict=True)]})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_written_answers_stand_beside_the_choices(tmp_path: Path, tiny_llama_dir: Path) -> None:
    turns = write_turns(tmp_path / "turns.jsonl")
    compare_command(
        write_questions(tmp_path / "asked.csv", 4, "台南"),
        {"base": str(tiny_llama_dir), "same": str(tiny_llama_dir)},
        written=turns,
        output=tmp_path / "out",
        quantization="none",
        max_new_tokens=4,
        batch_tokens=64,  # several batches
    )
    with (tmp_path / "out/written.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    measures = ["chrF", "BLEU", "exact match"]
    assert [(r["Model"], r["Measure"]) for r in rows] == [(m, n) for m in ("base", "same") for n in measures]
    assert [r["PValue"] for r in rows] == ["", "", "", "1", "1", ""]
    assert "tok:zh" in rows[1]["Signature"] and {r["Total"] for r in rows} == {"6"}
    page = check_page(tmp_path / "out/comparison.html")
    assert "Accuracy on 4 questions" in page and "6 written answers" in page and "tok:zh" in page
    written = tmp_path / "out/predictions/same-written.jsonl"
    texts, wanted = read_written(written, written)
    assert wanted == [*(f"答案{n}。" for n in range(5)), "市仔。"]
    assert float(rows[0]["Value"]) == pytest.approx(score_texts(texts, wanted)[0].value, abs=1e-4)


def test_instruction_data_alone_are_compared(tmp_path: Path, tiny_llama_dir: Path) -> None:
    turns, models = write_turns(tmp_path / "turns.jsonl"), {"base": str(tiny_llama_dir)}
    options: dict[str, Any] = {"quantization": "none", "max_new_tokens": 2}
    compare_command(turns, models, output=tmp_path / "out", **options)
    assert not (tmp_path / "out/comparison.csv").exists()
    assert "6 written answers" in check_page(tmp_path / "out/comparison.html")
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("mandarin,taigi\n你好,汝好\n", encoding="utf-8")
    template = InstructionTemplate("翻譯：{mandarin}", "{taigi}")
    compare_command(pairs, models, output=tmp_path / "pairs", template=template, **options)
    (line,) = (tmp_path / "pairs/predictions/base-written.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["reference"] == "汝好"
    with pytest.raises(InputError, match="--corpus belongs to four-choice questions"):
        compare_command(turns, models, output=tmp_path / "no", corpus=tmp_path)
    with pytest.raises(InputError, match="Raise --max_length"):
        compare_command(turns, models, output=tmp_path / "long", max_length=2, **options)


@pytest.mark.parametrize("manner", [None, *TEMPLATES])
def test_a_conversation_is_rendered_as_in_training(
    tmp_path: Path, tiny_tokenizer_dir: Path, manner: str | None
) -> None:
    """What a model is given ends where the last answer's labels begin in a training example, in every manner."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer_dir)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<turn>", "<end>"]})
    tokenizer.chat_template = None if manner is None else TEMPLATES[manner]
    turns = write_turns(tmp_path / "turns.jsonl")
    task = read_task(turns, None, None, "auto", max_length=512, max_new_tokens=4, batch_tokens=512)
    for conversation, ids in zip(task.conversations, encode_task(tokenizer, task), strict=True):
        taught = encode_conversation_example(tokenizer, conversation, 512, manner is not None)
        assert taught is not None and taught.input_ids[: len(ids)] == ids
        answer = [label for label in taught.labels[len(ids) :] if label != IGNORE]
        assert str(conversation.messages[-1]["content"]) in tokenizer.decode(answer)
        asked = replace(conversation, messages=conversation.messages[:-1])
        assert ids[: len(encode_open_conversation(tokenizer, asked, manner is not None))] == (
            encode_open_conversation(tokenizer, asked, manner is not None)
        )
