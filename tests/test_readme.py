"""The README's commands, as they stand there, on a sample corpus and the tiny base."""

import csv
import json
import os
import re
import shlex
import subprocess
from pathlib import Path

import pandas as pd
import pytest
from transformers import AutoModelForCausalLM

from tests.warm_python import WarmPython
from tests.working_folder import link

ROOT = Path(__file__).parent.parent
# What turns a real command into one a CPU finishes: nothing else about it changes.
FEW_STEPS = (
    "--trainer.max_steps=2 --trainer.val_check_interval=2 --data.init_args.max_length=256 "
    "--checkpoint.every_n_train_steps=1"
)
OVERLAY = {
    "sample data": "--articles 20 --questions 200 --test_questions 20",
    "--ckpt_path last": f"--config configs/tiny.yaml {FEW_STEPS.replace('max_steps=2', 'max_steps=3')}",
    "fit --config configs/sft.yaml": f"--config configs/tiny.yaml --model.base models/cpt_model {FEW_STEPS}",
    "fit --config configs/cpt.yaml": f"--config configs/tiny.yaml {FEW_STEPS}",
}


def blocks(readme: str, language: str) -> list[str]:
    """The fenced blocks of a README that are written in one language."""
    text = (ROOT / readme).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def commands(readme: str) -> list[str]:
    """Every command line of the bash blocks of a README, without its comment."""
    lines = [
        line.partition("#")[0].strip() for block in blocks(readme, "bash") for line in block.splitlines()
    ]
    return [line for line in lines if line]


def real_commands(readme: str) -> list[str]:
    return [line for line in commands(readme) if line.startswith("python -m")][:4]


@pytest.fixture(scope="module")
def python(warm_python: WarmPython) -> str:
    """The interpreter of the README's commands."""
    return warm_python.executable


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, python: str) -> Path:
    """A fresh working folder with a user's data in it, where the four commands have been run."""
    folder = tmp_path_factory.mktemp("home")
    link_project(folder)
    run(python, folder, "corpus_tools sample data --test_questions 30")
    questions = pd.read_csv(folder / "data" / "AI_conv.csv", dtype=str, keep_default_na=False)
    questions.head(40).to_csv(
        folder / "data" / "held-out.csv", index=False
    )  # enough for `compare` and `test` to run
    for line in real_commands("README.md"):
        run(python, folder, overlaid(line))
    return folder


def link_project(folder: Path) -> None:
    """What a command expects to find in the working folder."""
    (folder / "models").mkdir()
    link(folder / "configs", ROOT / "configs")
    link(folder / "models" / "tiny-taigi", ROOT / "models" / "tiny-taigi")


def overlaid(line: str) -> str:
    """A README command as the demo's size of it."""
    command = line.removeprefix("python -m ")
    return f"{command} {next((more for part, more in OVERLAY.items() if part in command), '')}"


def run(python: str, folder: Path, command: str) -> str:
    """Run `python -m command` in a folder; its output is shown when it fails."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "WANDB_MODE": "offline"}
    arguments = [python, "-m", *shlex.split(command)]
    done = subprocess.run(
        arguments, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def run_lines(python: str, folder: Path, lines: str) -> None:
    """Run lines of Python in a folder, in an interpreter of their own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [python, "-c", lines],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_both_readmes_show_the_same_commands() -> None:
    assert commands("README.md") == commands("README.zh-TW.md")
    assert blocks("README.md", "python") == blocks("README.zh-TW.md", "python")


def test_the_four_commands_are_those_of_the_project() -> None:
    assert real_commands("README.md") == [
        "python -m corpus_tools clean data/IMA-Taiwan",
        "python -m taigi_lightning fit --config configs/cpt.yaml",
        "python -m taigi_lightning fit --config configs/sft.yaml",
        "python -m taigi_lightning predict",
    ]


@pytest.mark.parametrize("line", [c for c in commands("README.md") if c.startswith("python -m")][4:])
def test_every_other_command_runs(python: str, home: Path, line: str) -> None:
    run(python, home, overlaid(line))


@pytest.mark.parametrize("lines", blocks("README.md", "python"))
def test_the_lines_of_python_run(python: str, home: Path, lines: str) -> None:
    run_lines(python, home, lines)


def test_every_make_target_of_the_readme_exists() -> None:
    targets = [line.split()[1] for line in commands("README.md") if line.startswith("make ")]
    makefile = (ROOT / "Makefile").read_text()
    assert targets
    assert all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in targets)


def test_each_stage_leaves_its_files(home: Path) -> None:
    for place in (
        "data/cpt_corpus/manifest.json",
        "data/cpt_corpus/report.json",
        "models/cpt_model/config.json",
        "models/cpt_model/adapter/adapter_model.safetensors",
        "models/cpt_model/lineage.json",
        "models/cpt_model/config.yaml",
        "models/final_model/adapter/adapter_config.json",
        "data/output-CPT&SFT_V2.csv",
    ):
        assert (home / place).is_file(), place


def test_the_reports_and_the_cards_are_there(home: Path) -> None:
    for place in (
        "data/cpt_corpus/report.html",
        "models/cpt_model/report.html",
        "models/final_model/report.html",
        "data/output-CPT&SFT_V2.report.html",
        "models/cpt_model/README.md",
        "models/final_model/README.md",
    ):
        assert (home / place).is_file(), place
    report = (home / "models/final_model/report.html").read_text(encoding="utf-8")
    assert "Held-out questions" in report
    assert report.count('class="option chosen"') == 8


def test_plain_transformers_loads_the_merged_models(home: Path) -> None:
    for stage in ("cpt_model", "final_model"):
        model = AutoModelForCausalLM.from_pretrained(home / "models" / stage)
        assert not hasattr(model, "peft_config")
        assert (home / "models" / stage / "tokenizer.model").is_file()


def test_every_question_is_answered_once_in_the_order_of_the_file(home: Path) -> None:
    with (home / "data/1001-question-v3.csv").open(encoding="utf-8-sig", newline="") as file:
        wanted = [row["ID"] for row in csv.DictReader(file)]
    with (home / "data/output-CPT&SFT_V2.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["ID"] for row in rows] == wanted
    assert all(set(row) == {"ID", "Answer"} and row["Answer"] in "1234" for row in rows)


def test_what_is_tracked_reaches_the_csv_log(home: Path) -> None:
    log = min((home / "models/cpt_model/logs").rglob("metrics.csv"))  # version_0: the README's first run
    with log.open(encoding="utf-8") as file:
        columns = set(next(csv.reader(file)))
    wanted = {
        "step",
        "train/loss",
        "train/learning_rate",
        "train/grad_norm",
        "train/tokens_per_second",
        "val/loss",
    }
    assert wanted <= columns


def test_the_sft_run_says_which_cpt_run_it_came_from(home: Path) -> None:
    lineage = json.loads((home / "models/final_model/adapter/lineage.json").read_text(encoding="utf-8"))
    assert lineage["base"]["name"] == "models/cpt_model"
    assert lineage["base"]["lineage"]["data"]["path"].startswith("data/cpt_corpus")


def test_a_changed_base_is_refused_with_both_identities(python: str, home: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    arguments = [python, "-m", "taigi_lightning", "predict", "--config", "configs/predict.yaml"]
    wrong = subprocess.run(
        [*arguments, "--model.base", "models/tiny-taigi"],
        cwd=home, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert wrong.returncode == 1
    assert "Found models/tiny-taigi" in wrong.stderr
    assert "wanted models/cpt_model" in wrong.stderr
    assert "Traceback" not in wrong.stderr
