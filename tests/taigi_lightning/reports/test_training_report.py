"""Reports of training runs: complete, self-contained, and as wide as a phone."""

import json
import os
import re
from pathlib import Path

import pytest

from taigi_lightning.errors import InputError
from taigi_lightning.evaluation.predictions import Prediction
from taigi_lightning.evaluation.sample_answers import write_answers
from taigi_lightning.planning.run_files import HOW_TRAINED
from taigi_lightning.reports.training_report import ANSWERS, TEXT, WRITING, write_fit_report
from taigi_lightning.tasks.questions import Question
from tests.browser import CHROMIUM, check_page, check_width


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished SFT run's folder: 60 steps, two validations, a config, two answered questions."""
    folder = tmp_path / "final_model"
    logs = folder / "logs" / "version_0"
    logs.mkdir(parents=True)
    lines = ["epoch,step,train/loss,train/learning_rate,train/tokens_per_second,val/loss,val/accuracy"]
    lines += [f"0,{step},{3 - step / 40},{2e-4 * step / 60},{8000 + step}," + "," for step in range(60)]
    lines += ["0,29,,,,2.5,0.5", "0,59,,,,2.25,0.75"]
    (logs / "metrics.csv").write_text("\n".join(lines) + "\n")
    (folder / "config.yaml").write_text("model:\n  base: <b> & co\n")
    lineage = {"base": {"name": "models/" + "cpt_" * 30, "quantization": "nf4"}, "data": None}
    (folder / "lineage.json").write_text(json.dumps(lineage))
    questions = [
        Question("id-1", "阮兜蹛佇台南。" * 60, "啥人？", ("阿公 <i>", "阿媽", "厝--lìn", ""), 3, 1),
        Question("id-2", "A" * 300, "佗位？", ("市仔", "學校", "https" * 40, "海邊"), 1, 2),
    ]
    predictions = [
        Prediction(1, "id-1", 3, (-3.0, -3.0, -0.2, -3.0), None, False),
        Prediction(2, "id-2", 2, (-2.0, -0.3, -3.0, -4.0), None, False),
    ]
    write_answers(folder / ANSWERS, questions, predictions, held_out=40)
    return folder


def test_a_training_report_says_what_has_no_lora_and_which_path_was_taken(run: Path) -> None:
    lines = [
        "LoRA on 4 projections: q_proj; none on model.layers.*.mlp.experts.<down>",
        "general path, since x",
    ]
    (run / HOW_TRAINED).write_text(json.dumps(lines))
    page = check_page(write_fit_report(run))
    assert "none on model.layers.*.mlp.experts.&lt;down&gt;" in page
    assert "general path, since x" in page


def test_a_training_report_shows_what_the_model_writes(run: Path) -> None:
    row = {"prompt": "早起<時", "before": "𨑨迌", "after": "仔&", "goes_on": None}
    (run / WRITING).write_text(json.dumps([row]), encoding="utf-8")
    page = check_page(write_fit_report(run))
    assert "早起&lt;時" in page and "𨑨迌" in page and "仔&amp;" in page
    assert "<dt>held-out text</dt>" not in page, "a prompt of the config goes on nowhere"


def resumed(run: Path, checkpoint: str | None) -> None:
    """A second start of the run, which logged ten steps from step 50 on."""
    logs = run / "logs" / "version_1"
    logs.mkdir()
    (logs / "hparams.yaml").write_text(f"ckpt_path: {checkpoint or 'null'}\n")
    rows = "\n".join(f"1,{step},1.0" for step in range(50, 80))
    (logs / "metrics.csv").write_text(f"epoch,step,train/loss\n{rows}\n")


def test_a_training_report_shows_every_logged_curve(run: Path) -> None:
    page = check_page(write_fit_report(run))
    for words in ["Loss", "Learning rate", "Tokens per second", "Validation accuracy", "75.0%", "2.250"]:
        assert words in page
    assert "Gradient norm" not in page, "nothing was logged of it"
    assert page.count("<svg") == 4
    assert "&lt;b&gt; &amp; co" in page
    assert "Resumed" not in page
    for name, value in {"model": run, "base": "models/" + "cpt_" * 30}.items():
        assert f"<dt>{name}</dt><dd>{value}</dd>" in page
    assert re.search(r"<dt>last logged</dt><dd>\d{4}-\d\d-\d\d \d\d:\d\d UTC</dd>", page)
    assert "<title>optimizer steps: 60" in page
    assert 'download="loss.csv" href="data:text/csv' in page


def test_a_resumed_run_is_one_curve_with_its_resume_marked(run: Path) -> None:
    resumed(run, "models/final_model/checkpoints/step=50.ckpt")
    page = check_page(write_fit_report(run))
    assert "Resumed after optimizer step 50" in page
    assert "<b>80</b><span>optimizer steps" in page
    marks = page.count('class="mark"')
    assert marks == 5, "one in each of four charts, and the line of chance"


def test_some_held_out_questions_are_shown_with_what_the_model_thinks(run: Path) -> None:
    page = check_page(write_fit_report(run))
    assert "2 of the 40 held-out questions" in page
    assert "1 of these are correct" in page
    for words in ["阿公 &lt;i&gt;", "厝--lìn", "wrong, correct is 1", "84.6%", "420 characters"]:
        assert words in page
    assert page.count('class="option chosen"') == 2


def test_a_held_out_text_is_shaded_by_its_tokens_nats(run: Path) -> None:
    read = {"pieces": [["阿明", 0.4], ["去<市仔", 9.0]], "mean": 4.7}
    (run / TEXT).write_text(json.dumps(read), encoding="utf-8")
    page = check_page(write_fit_report(run))
    assert '<span style="--s:5%" data-nats="0.40" title="0.40 nats">阿明</span>' in page
    assert '<span style="--s:100%" data-nats="9.00" title="9.00 nats">去&lt;市仔</span>' in page
    assert "4.70 nats a token" in page


def test_a_folder_without_a_log_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no logs"):
        write_fit_report(tmp_path)


@pytest.mark.skipif(CHROMIUM is None and not os.environ.get("CI"), reason="no chromium on this machine")
@pytest.mark.parametrize("width", [360, 1200])
def test_a_browser_shows_the_report_without_scrolling_sideways(run: Path, width: int, tmp_path: Path) -> None:
    resumed(run, "step=50.ckpt")
    check_width(write_fit_report(run), width, tmp_path)
