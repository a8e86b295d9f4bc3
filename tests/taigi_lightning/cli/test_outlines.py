"""What is parsed over outlines is what is parsed over the classes themselves."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from taigi_lightning.__main__ import main
from taigi_lightning.cli.commands import COMMANDS, TOOLS
from tests.warm_python import Ended, WarmPython
from tests.working_folder import TEXT, lay_out
from tests.wrong_inputs.case import Case
from tests.wrong_inputs.command_lines import COMMAND_LINES
from tests.wrong_inputs.configs import CONFIGS

ROOT = Path(__file__).parent.parent.parent.parent
# Every eighth, for time's sake: that each is refused is for test_wrong_inputs to show.
REFUSED = [case for case in (*COMMAND_LINES, *CONFIGS) if case.light and case.code == 2][::8]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("outlines")
    lay_out(folder, ROOT / "models" / "tiny-taigi", [f"{TEXT}{n}" for n in range(8)], held_out=2)
    return folder


def over_classes(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Ended:
    """How the command ends in this process, where PyTorch is loaded and nothing is outlined."""
    assert "torch" in sys.modules
    monkeypatch.setattr(sys, "argv", ["taigi_lightning", *arguments])
    try:
        code = main()
    except SystemExit as stop:
        code = int(stop.code or 0)
    printed = capsys.readouterr()
    return Ended(code, printed.out, printed.err, [])


def in_one_order(printed: str) -> str:
    """With types of numbers in one order: Python keeps that in which a process first had them in an Optional."""
    return re.sub(r"float,(\s+)int\b", r"int,\1float", printed)


@pytest.mark.parametrize("command", [*COMMANDS, *TOOLS])
def test_help_is_the_same_and_needs_nothing_heavy(
    command: str,
    warm_python: WarmPython,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "80")
    early = warm_python.run("taigi_lightning", [command, "--help"], folder)
    assert (early.code, early.heavy) == (0, [])
    late = over_classes([command, "--help"], monkeypatch, capsys)
    assert in_one_order(early.out) == in_one_order(late.out)


@pytest.mark.parametrize("stage", ["cpt", "sft", "predict"])
def test_a_plan_is_the_same_and_needs_nothing_heavy(
    stage: str,
    warm_python: WarmPython,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(folder)
    arguments = ["plan", "--config", f"configs/{stage}.yaml", "--model.base", "models/base"]
    arguments += ["--model.adapter", "null", "--gpu_memory", "8GiB", "--json"]
    early = warm_python.run("taigi_lightning", arguments, folder)
    assert (early.code, early.heavy) == (0, []), early.err
    plans = [json.loads(out) for out in (early.out, over_classes(arguments, monkeypatch, capsys).out)]
    for plan in plans:
        for folder_needs in plan["disk"]:
            folder_needs.pop("free_bytes")  # which every moment changes
    assert plans[0] == plans[1]


@pytest.mark.parametrize("case", REFUSED, ids=str)
def test_a_refusal_is_the_same(
    case: Case,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    warm_python: WarmPython,
) -> None:
    monkeypatch.chdir(folder)
    for name, content in case.files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    arguments = shlex.split(case.command)[1:]
    early = warm_python.run("taigi_lightning", arguments, folder)
    assert early.err == over_classes(arguments, monkeypatch, capsys).err


OWN = """
import torch, lightning.pytorch as pl
print("run")
class Mine(pl.Callback):
    def __init__(self, often: int = 3): ...
class Slow(torch.optim.SGD):
    def __init__(self, params, lr: float = 0.1, **others): super().__init__(params, lr)
"""


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--trainer.callbacks own.Mine --trainer.callbacks.often x", "trainer.callbacks.often is 'x'"),
        ("--trainer.callbacks own.Slow", "own.Slow (--trainer.callbacks), which is no"),
    ],
)
def test_a_module_of_the_users_is_read_and_not_run(
    flags: str, words: str, warm_python: WarmPython, folder: Path
) -> None:
    (folder / "own.py").write_text(OWN)
    arguments = ["fit", "--config", "configs/cpt.yaml", "--model.base", "models/base", *flags.split()]
    ended = warm_python.run("taigi_lightning", arguments, folder)
    assert words in ended.err
    assert (ended.code, ended.heavy, ended.out) == (2, [], "")


# ---- what cannot be outlined ----------------------------------------------------------------------------------

AHEAD = """
import sys
from taigi_lightning.cli import preflight
if sys.argv.pop(1) == "break":
    preflight.outlined = None
command, *rest = sys.argv[1:]
found = preflight.preflight(command, rest)
print(found and found.model.base)
"""


@pytest.mark.parametrize(
    "line",
    [
        *(
            f"{command} --config configs/{stage}.yaml"
            for command in ("fit", "validate")
            for stage in ("cpt", "sft")
        ),
        "fit --config configs/cpt.yaml --config configs/tiny.yaml --model.optimizer torch.optim.SGD",
        "fit --config configs/tiny_base.yaml --data.init_args.data_dir data/cpt_corpus",
        "fit --config configs/cpt.yaml --trainer.logger CSVLogger --trainer.logger.save_dir logs",
        "predict --config configs/predict.yaml",
        "test --config configs/predict.yaml --data.init_args.average_orders true",
        "plan --config configs/cpt.yaml --gpu_memory 24GiB",
    ],
)
def test_a_right_command_line_is_parsed_ahead(line: str, folder: Path, warm_python: WarmPython) -> None:
    questions = "ID,文章,問題,選項1,選項2,選項3,選項4,正確答案\n" + "".join(
        f"{n},文{n},問,1,2,3,4,1\n" for n in range(9)
    )
    (folder / "asked.csv").write_text(questions)
    data = {"sft": "--data.init_args.train_file", "predict": "--data.init_args.questions"}
    named = next((f"{flag} asked.csv" for stage, flag in data.items() if f"{stage}.yaml" in line), "")
    adapter = "--model.adapter null" if "predict.yaml" in line else ""
    arguments = shlex.split(f"{line} --model.base models/base {named} {adapter}")
    ended = run_code(warm_python, ["as it is", *arguments], folder)
    assert (ended.returncode, ended.stdout) == (0, "models/base\n"), ended.stderr


def test_what_falls_back_to_slow_imports_does_not_go_unseen(folder: Path, warm_python: WarmPython) -> None:
    arguments = ["break", "plan", "--config", "configs/cpt.yaml"]
    noticed = run_code(warm_python, arguments, folder)
    assert noticed.returncode == 1
    assert "The command line could not be read ahead" in noticed.stderr
    unasked = run_code(warm_python, arguments, folder, PYTHONWARNINGS="")
    assert (unasked.returncode, unasked.stdout) == (0, "None\n"), unasked.stderr


def run_code(
    python: WarmPython, arguments: list[str], folder: Path, **variables: str
) -> subprocess.CompletedProcess[str]:
    command = [python.executable, "-c", AHEAD, *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
