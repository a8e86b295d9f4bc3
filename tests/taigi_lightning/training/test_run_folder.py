"""One run to a folder: two at once, a second one without a word, and what the word does."""

import json
import subprocess
from pathlib import Path

import pytest
import torch

from taigi_lightning.errors import InputError
from taigi_lightning.training.run_folder import RunFolder, describe_results
from taigi_lightning.training.run_identity import read_run
from tests.warm_python import WarmPython
from tests.working_folder import CPT, environment


def fit(python: WarmPython, *more: str) -> "subprocess.CompletedProcess[str]":
    steps = ["--trainer.max_steps", "2", "--checkpoint.every_n_train_steps", "1", "--model.lora.r", "4"]
    command = [python.executable, "-m", "taigi_lightning", *CPT, *steps, "--export.merge", "false", *more]
    return subprocess.run(command, capture_output=True, text=True, env=environment(), check=False)


def test_a_second_run_needs_a_word(home: Path, warm_python: WarmPython) -> None:
    root = home / "models" / "cpt_model"
    assert fit(warm_python).returncode == 0
    first = read_run(root)
    assert first is not None
    assert first.finished
    before = {
        path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file() and path.name != ".lock"
    }
    refused = fit(warm_python, "--model.optimizer.lr", "0.1")
    assert refused.returncode == 1
    assert "holds a finished run, which began on" in refused.stderr
    assert "--run.overwrite true" in refused.stderr
    assert before == {path: path.stat().st_mtime_ns for path in before}

    again = fit(warm_python, "--run.overwrite", "true", "--checkpoint.every_n_train_steps", "2")
    assert again.returncode == 0, again.stderr
    second = read_run(root)
    assert second is not None
    assert second.starts[0].id != first.starts[0].id
    (left,) = (root / "checkpoints").iterdir()  # the first run's are gone
    assert (
        torch.load(left, weights_only=True)["run"]["starts"]
        == json.loads((root / "run.json").read_text())["starts"]
    )

    more = fit(
        warm_python,
        "--ckpt_path",
        "last",
        "--trainer.max_steps",
        "3",
        "--model.optimizer.weight_decay",
        "0.5",
    )
    assert more.returncode == 0, more.stderr
    assert "model.optimizer.weight_decay: 0.0 in the checkpoint, 0.5 in this run; using 0.5." in more.stdout
    third = read_run(root)
    assert third is not None
    assert [start.step for start in third.starts] == [0, 2]
    jump = fit(
        warm_python, "--ckpt_path", "last", "--trainer.max_steps", "4", "--model.lora.lora_alpha", "32"
    )
    assert jump.returncode == 1
    assert "model.lora.lora_alpha is 32, and the checkpoint was trained with 128" in jump.stderr


def test_two_at_once_are_refused(tmp_path: Path, warm_python: WarmPython) -> None:
    first, second = RunFolder(), RunFolder()
    first.claim(tmp_path)
    code = f"""
from pathlib import Path
from taigi_lightning.training.run_folder import RunFolder
RunFolder().claim(Path({str(tmp_path)!r}))
"""
    other = subprocess.run(
        [warm_python.executable, "-c", code], capture_output=True, text=True, env=environment(), check=False
    )
    assert "Another `fit` is writing into" in other.stderr
    first.teardown(None, None, "fit")  # type: ignore[arg-type]
    second.claim(tmp_path)


@pytest.mark.parametrize("left", ["checkpoints/step=3.ckpt", "adapter/adapter_config.json", "lineage.json"])
def test_what_an_earlier_run_left_is_not_replaced_without_a_word(tmp_path: Path, left: str) -> None:
    assert describe_results(tmp_path) == ""
    (tmp_path / left).parent.mkdir(exist_ok=True)
    (tmp_path / left).touch()
    with pytest.raises(InputError, match="--ckpt_path last to go on"):
        RunFolder().claim(tmp_path)
    RunFolder(overwrite=True).claim(tmp_path)


def test_going_on_and_beginning_anew_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Leave out one of them"):
        RunFolder(overwrite=True).claim(tmp_path, str(tmp_path / "checkpoints" / "step=1.ckpt"))


def test_a_job_that_slurm_runs_again_goes_on_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "hpc_ckpt_1.ckpt").touch()
    with pytest.raises(InputError, match="the model of an earlier run"):
        RunFolder().claim(tmp_path)
    monkeypatch.setattr("lightning.fabric.plugins.environments.slurm.SLURMEnvironment.detect", lambda: True)
    RunFolder().claim(tmp_path)
