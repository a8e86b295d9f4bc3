"""Written answers against references: sacrebleu's own figures, with intervals, in the order of the rows or the IDs."""

import json
from pathlib import Path

import pytest
import sacrebleu

from taigi_lightning.errors import InputError
from taigi_lightning.evaluation.scoring import score_command
from taigi_lightning.evaluation.text_scores import paired_p_values, read_written, score_texts

WANTED = ["食飽未？", "天氣真好。", "阿明去市仔。", "落雨矣。"] * 5
GOOD = ["食飽未？", "天氣足好。", "阿明去市仔。", "雨落矣。"] * 5
BAD = ["好", "好", "市仔", "雨"] * 5


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_the_figures_are_sacrebleus_own() -> None:
    chrf, bleu, exact = score_texts(GOOD, WANTED)
    assert chrf.value == sacrebleu.corpus_chrf(GOOD, [WANTED]).score
    assert bleu.value == sacrebleu.corpus_bleu(GOOD, [WANTED], tokenize="zh").score
    assert "version:" in chrf.signature and "tok:zh" in bleu.signature
    assert exact.value == 50.0
    for one in (chrf, bleu, exact):
        assert one.interval[0] < one.value < one.interval[1]


def test_answers_that_share_little_or_nothing_have_a_score() -> None:
    """Some resamples hold no correct word at all, whose score is a 0 of another kind."""
    for texts in (["早"] * 20, ["食飽未？", *["早"] * 19], [""] * 20):
        for one in score_texts(texts, WANTED):
            assert 0 <= one.interval[0] <= one.interval[1] and one.value < 10


def test_spaces_and_composition_do_not_make_an_answer_another() -> None:
    assert score_texts(["lí hó ", "a  b"], ["lí hó", "a b"])[2].value == 100.0


def test_a_clear_difference_is_told_from_chance() -> None:
    assert all(p < 0.05 for p in paired_p_values(GOOD, BAD, WANTED).values())


def test_what_does_not_differ_is_no_difference() -> None:
    assert set(paired_p_values(GOOD, GOOD, WANTED).values()) == {1.0}


def test_references_are_found_by_row_or_id(tmp_path: Path) -> None:
    asked = write(
        tmp_path / "asked.jsonl", [{"id": n, "prompt": f"{n}", "completion": f"答{n}"} for n in range(3)]
    )
    rows: list[dict[str, object]] = [{"id": n, "generated": f"寫{n}"} for n in (2, 0, 1)]
    texts, wanted = read_written(write(tmp_path / "written.jsonl", rows), asked)
    assert list(zip(texts, wanted, strict=True)) == [("寫2", "答2"), ("寫0", "答0"), ("寫1", "答1")]
    plain = write(tmp_path / "plain.jsonl", [{"generated": "a"}, {"generated": "b"}, {"generated": "c"}])
    assert read_written(plain, asked) == (["a", "b", "c"], ["答0", "答1", "答2"])
    references = write(tmp_path / "r.jsonl", [{"reference": "x"}])
    with pytest.raises(InputError, match=r"holds 3 texts and .* 1 references"):
        read_written(plain, references)
    other = write(tmp_path / "o.jsonl", [{"id": n, "reference": "x"} for n in (0, 1, 9)])
    with pytest.raises(InputError, match="do not hold the same IDs; missing 9; without a reference 2"):
        read_written(tmp_path / "written.jsonl", other)
    fewer = write(tmp_path / "fewer.jsonl", rows[:1])
    with pytest.raises(InputError, match="do not hold the same IDs; missing 0, 1; without a reference none"):
        read_written(fewer, asked)
    empty = write(tmp_path / "e.jsonl", [{"reference": "x"}, {"reference": None}, {"reference": "x"}])
    with pytest.raises(InputError, match="line 2: reference is empty"):
        read_written(plain, empty)
    with pytest.raises(InputError, match=r"What was wanted is not found .* a column reference"):
        read_written(plain, write(tmp_path / "n.jsonl", [{"answer": "x"}] * 3))


def test_score_tells_written_answers_by_their_column(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows: list[dict[str, object]] = [
        {"prompt": "?", "completion": wanted, "generated": text}
        for wanted, text in zip(WANTED, GOOD, strict=True)
    ]
    path = write(tmp_path / "written.jsonl", rows)
    other = write(tmp_path / "other.jsonl", [{"generated": text} for text in BAD])
    score_command(path, path, against=other, json=tmp_path / "score.json")
    assert "20 written answers" in capsys.readouterr().out
    found = json.loads((tmp_path / "score.json").read_text(encoding="utf-8"))
    assert found["exact match"]["value"] == 50.0 and found["p_values"]["chrF"] < 0.05
