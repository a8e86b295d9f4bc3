"""The demo: real commands only, a failure that shows itself, figures read from what was printed."""

import json
from pathlib import Path

import pytest

from taigi_lightning import demo as demo_module
from taigi_lightning.demo import Step, demo, demo_steps, perplexity, run_step

STEPS = demo_steps(Path("models/demo"), 300, 9527)
LIGHTNING = [step for step in STEPS if step.arguments[1] in ("fit", "validate", "predict")]


def test_everything_the_demo_writes_lies_under_its_folder(tmp_path: Path) -> None:
    for step in demo_steps(tmp_path / "demo", 300, 9527):
        paths = [a.rpartition("=")[2] for a in step.arguments if "/" in a]
        outside = {p for p in paths if not p.startswith(str(tmp_path))}
        assert outside <= {"models/tiny-taigi"} | {p for p in paths if p.startswith("configs/")}


def test_both_stages_run_the_real_configs_under_the_overlay() -> None:
    fits = {step.name: step.arguments for step in STEPS if step.arguments[1] == "fit"}
    assert fits["cpt"][2:6] == ("--config", "configs/cpt.yaml", "--config", "configs/tiny.yaml")
    assert fits["cpt"][6:8] == ("--config", "configs/tiny_cpt.yaml")
    assert fits["sft"][2:6] == ("--config", "configs/sft.yaml", "--config", "configs/tiny.yaml")
    assert fits["sft"][6:8] == fits["sft-without-cpt"][6:8] == ("--config", "configs/tiny_sft.yaml")
    assert "--model.base=models/demo/cpt_model" in fits["sft"]


@pytest.mark.parametrize("step", LIGHTNING, ids=lambda step: step.name)
def test_every_option_is_one_the_command_knows(
    step: Step, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from taigi_lightning.cli.lightning_cli import main

    monkeypatch.setattr("sys.argv", ["taigi_lightning", *step.arguments[1:], "--print_config"])
    with pytest.raises(SystemExit) as stopped:
        main()
    printed = capsys.readouterr()
    assert stopped.value.code == 0, printed.err
    assert "quantization: nf4" in printed.out


def test_a_failing_step_shows_its_output_and_its_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        run_step(Step("count", ("json.tool", str(tmp_path / "missing.json"))), tmp_path)
    assert stopped.value.code != 0
    shown = capsys.readouterr()
    assert "missing.json" in shown.err
    assert str(tmp_path / "logs" / "count.log") in shown.err


def test_perplexity_is_read_from_lightnings_table() -> None:
    table = "│  val/loss   │   1.2039728403091431  │\n│  val/perplexity   │   3.3333332538604736   │"
    assert perplexity(table) == pytest.approx(3.3333332538604736)
    with pytest.raises(RuntimeError, match="no val/perplexity"):
        perplexity("nothing here")


def test_the_summary_tells_every_model_apart_and_the_corpus_words_from_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = [(f"{number}2537", 1 + number % 4) for number in range(12)]
    answered_rightly = {
        "base": 3,
        "cpt": 4,
        "sft-without-cpt": 8,
        "sft": 12,
    }  # the last four need CPT's words

    def pretend(step: Step, folder: Path) -> str:
        if step.name == "sample":
            write_answers(folder / "data" / "1001-question-v3-answers.csv", right)
            write_answers(folder / "data" / "vocabulary-question-answers.csv", right[8:])
        if step.name.startswith("predict-"):
            name = step.name.removeprefix("predict-")
            given = [(i, a if n < answered_rightly[name] else a % 4 + 1) for n, (i, a) in enumerate(right)]
            write_answers(folder / "predictions" / f"{name}.csv", given)
        return "val/perplexity 8.0" if step.name == "perplexity-before" else "val/perplexity 4.0"

    monkeypatch.setattr(demo_module, "run_step", pretend)
    demo(tmp_path, test_questions=12)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["perplexity_before"], summary["perplexity_after"]) == (8.0, 4.0)
    assert (summary["questions"], summary["questions_on_the_corpus_words"]) == (12, 4)
    assert summary["accuracy_base"]["accuracy"] == 0.25
    assert summary["accuracy_sft"]["accuracy"] == 1.0
    low, high = summary["accuracy_sft-without-cpt"]["interval"]
    assert low < 8 / 12 < high
    assert summary["accuracy_sft-without-cpt_on_the_corpus_words"]["accuracy"] == 0.0
    assert summary["accuracy_sft_on_the_corpus_words"]["accuracy"] == 1.0
    assert summary["p_value_of_cpt_on_the_corpus_words"] == 0.125  # four to none
    shown = capsys.readouterr().out
    assert "-50%" in shown
    assert "CPT, then SFT" in shown


def write_answers(path: Path, answers: list[tuple[str, int]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("ID,Answer\n" + "".join(f"{i},{a}\n" for i, a in answers))
