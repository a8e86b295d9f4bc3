"""Two processes under torchrun train, validate and save as one does; four as well, and are gone on with by two."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pandas as pd
import pytest
import torch

from tests.warm_python import WarmPython
from tests.working_folder import link

ROOT = Path(__file__).parents[3]
SEVERAL = "several processes, which PyTorch for Windows cannot let train together"
STEPS = 4
TORCHRUN = [
    sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
    "-m", "taigi_lightning",
]  # fmt: skip


class SignalToOne(pl.Callback):
    """The second of two processes alone is asked to stop, in the first optimizer step."""

    def on_before_backward(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_rank == 1 and trainer.fit_loop.total_batch_idx == 0:
            os.kill(os.getpid(), signal.SIGTERM)


def fit(home: Path, command: list[str], folder: str, batch_size: int, *more: str, code: int = 0) -> str:
    """Run the SFT stage in `home`, two micro-batches a step, without dropout; returns what it printed."""
    arguments = [
        "fit", "--config", "configs/sft.yaml", "--config", "configs/tiny.yaml", "--model.base", "models/base",
        "--model.lora.r", "4", "--model.lora.lora_dropout", "0.0", "--model.warmup_steps", "1",
        "--trainer.accumulate_grad_batches", "2", "--trainer.max_steps", str(STEPS),
        "--trainer.val_check_interval", "4", "--trainer.default_root_dir", folder,
        "--checkpoint.every_n_train_steps", "2",
        "--data.init_args.batch_size", str(batch_size), "--data.init_args.supervise", "everything",
        "--data.init_args.train_file", "questions.csv", "--data.init_args.validation_fraction", "0.2", *more,
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [*command, *arguments], cwd=home, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, tiny_llama_dir: Path) -> Path:
    """Questions of very unequal lengths, so that the two ranks' supervised tokens differ in every step."""
    folder = tmp_path_factory.mktemp("distributed")
    (folder / "models").mkdir()
    link(folder / "configs", ROOT / "configs")
    link(folder / "models" / "base", tiny_llama_dir)
    rows = [
        {
            "文章": "阿明下晡欲去市仔買菜。" * (1 + n % 7) + str(n), "問題": "阿明欲去佗位？",
            "選項1": "市仔", "選項2": "學校", "選項3": "厝", "選項4": "海邊", "正確答案": 1 + n % 4,
        }
        for n in range(43)
    ]  # fmt: skip
    pd.DataFrame(rows).to_csv(folder / "questions.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def printed(home: Path) -> str:
    """What two processes under torchrun printed; they leave models/two, and a run of Weights & Biases."""
    both = ["--trainer.strategy", "ddp", "--trainer.devices", "2", "--trainer.logger", "WandbLogger"]
    return fit(home, TORCHRUN, "models/two", 2, *both, "--trainer.logger.offline", "true")


@pytest.fixture(scope="module")
def one(warm_python: WarmPython) -> list[str]:
    """The command of one process."""
    return [warm_python.executable, "-m", "taigi_lightning"]


@pytest.fixture(scope="module")
def alone(home: Path, one: list[str]) -> Path:
    """The folder of one process with the whole batch."""
    fit(home, one, "models/one", 4)
    return home / "models" / "one"


def trained(folder: Path) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = torch.load(
        folder / "checkpoints" / f"step={STEPS}.ckpt", weights_only=True
    )["state_dict"]
    return weights


def metrics(folder: Path) -> pd.DataFrame:
    (file,) = (folder / "logs").rglob("metrics.csv")  # written by one process alone
    return pd.read_csv(file)


@pytest.mark.posix(SEVERAL)
def test_unequal_tokens_under_torchrun_train_as_one_process(home: Path, printed: str, alone: Path) -> None:
    wanted, found = trained(alone), trained(home / "models" / "two")
    assert wanted.keys() == found.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=2e-6)


@pytest.mark.posix(SEVERAL)
@pytest.mark.parametrize("name", ["train/loss", "train/grad_norm", "val/loss", "val/accuracy"])
def test_metrics_are_those_of_all_ranks(home: Path, printed: str, alone: Path, name: str) -> None:
    found = metrics(home / "models" / "two")[name].dropna().tolist()
    wanted = metrics(alone)[name].dropna().tolist()
    assert len(found) >= 2
    assert found == pytest.approx(wanted, rel=1e-4)


@pytest.mark.posix(SEVERAL)
def test_files_are_written_and_merged_once(home: Path, printed: str) -> None:
    folder = home / "models" / "two"
    assert {file.name for file in (folder / "checkpoints").iterdir()} == {"step=2.ckpt", "step=4.ckpt"}
    assert printed.count("Adapter: ") == printed.count("Report: ") == 1
    assert (folder / "config.json").is_file()
    assert not list(folder.rglob("*.partial"))


@pytest.mark.posix(SEVERAL)
def test_one_run_reaches_weights_and_biases(home: Path, printed: str) -> None:
    (file,) = (home / "wandb").glob("offline-run-*/run-*.wandb")  # a second process would have begun its own
    logged = file.read_bytes()
    assert b"train/loss" in logged
    assert b"val/accuracy" in logged


@pytest.mark.posix(SEVERAL)
def test_one_process_finishes_what_two_began(home: Path, one: list[str], printed: str) -> None:
    fit(home, one, "models/rest", 4, "--ckpt_path", "models/two/checkpoints/step=2.ckpt")
    wanted, found = trained(home / "models" / "two"), trained(home / "models" / "rest")
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=2e-6)


@pytest.mark.posix(SEVERAL)
def test_a_signal_to_one_process_stops_both_at_the_same_step(
    home: Path, one: list[str], printed: str, warm_python: WarmPython, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = [
        "--trainer.callbacks",
        f"{__name__}.SignalToOne",
        "--trainer.strategy",
        "ddp",
        "--trainer.devices",
        "2",
    ]
    monkeypatch.setenv("PYTHON_EXEC", warm_python.executable)  # both processes; their launcher too
    fit(home, [warm_python.executable, *TORCHRUN[1:]], "models/stopped", 2, *stop, code=1)
    monkeypatch.delenv("PYTHON_EXEC")
    (saved,) = (home / "models" / "stopped" / "checkpoints").glob("interrupted-*")
    assert saved.name == "interrupted-step=2.ckpt"  # one after the step in which it came
    fit(home, one, "models/stopped", 4, "--ckpt_path", "last")
    wanted, found = trained(home / "models" / "two"), trained(home / "models" / "stopped")
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=2e-6)


# ---- four processes -------------------------------------------------------------------------------

FOUR = [*TORCHRUN[:5], "4", *TORCHRUN[6:]]
# On a CPU, of which `cpu` would ask a core for each.
TOGETHER = ["--trainer.strategy", "ddp", "--trainer.devices", "4", "--trainer.accelerator", "auto"]


@pytest.mark.slow
@pytest.mark.posix(SEVERAL)
def test_two_processes_finish_what_four_began(
    home: Path, alone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The split of 35 questions comes out even for neither: 8 of them are seen in each of four steps."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    fit(home, FOUR, "models/four", 1, *TOGETHER)
    two = ["--trainer.strategy", "ddp", "--trainer.devices", "2"]
    fit(home, TORCHRUN, "models/then-two", 2, *two, "--ckpt_path", "models/four/checkpoints/step=2.ckpt")
    wanted = trained(alone)
    for folder in ("four", "then-two"):
        found = trained(home / "models" / folder)
        for name, value in wanted.items():
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=2e-6)


@pytest.mark.slow
@pytest.mark.posix(SEVERAL)
def test_four_processes_answer_each_question_once_and_as_one_does(
    home: Path, one: list[str], alone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    asked = pd.read_csv(home / "questions.csv")
    asked.insert(0, "ID", range(1, len(asked) + 1))
    asked.to_csv(home / "asked.csv", index=False)
    answers = {}
    for command, name, more in ((one, "by-one", []), (FOUR, "by-four", TOGETHER)):
        arguments = [
            "predict", "--config", "configs/predict.yaml", "--config", "configs/tiny.yaml", "--model.base",
            "models/base", "--model.adapter", str(alone / "adapter"), "--data.init_args.questions", "asked.csv",
            "--data.init_args.batch_tokens", "512", "--trainer.callbacks", "PredictionWriter",
            "--trainer.callbacks.output", f"{name}.csv", *more,
        ]  # fmt: skip
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(
            [*command, *arguments], cwd=home, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
        answers[name] = pd.read_csv(home / f"{name}.probabilities.csv")
    by_one, by_four = answers["by-one"], answers["by-four"]
    assert by_four["ID"].tolist() == by_one["ID"].tolist() == asked["ID"].tolist()
    assert by_four["Answer"].tolist() == by_one["Answer"].tolist()
    numbers = [name for name in by_one if name.startswith("Probability")]
    assert len(numbers) == 4
    assert (by_four[numbers] - by_one[numbers]).abs().to_numpy().max() < 1e-5
