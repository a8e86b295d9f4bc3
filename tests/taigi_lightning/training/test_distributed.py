"""Two processes train, validate and save as one does; which strategies are refused; torchrun and SLURM."""

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
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy, ModelParallelStrategy, Strategy
from lightning.pytorch.utilities import rank_zero_only

from taigi_lightning.__main__ import main
from taigi_lightning.errors import InputError
from taigi_lightning.kernels.host_memory import held_in_place
from taigi_lightning.model.adapters import LoraSettings
from taigi_lightning.training.callbacks import SaveOnSignal
from taigi_lightning.training.distributed import check_strategy
from taigi_lightning.training.module import CausalLMModule
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


# ---- strategies -----------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["fsdp", "deepspeed_stage_3", FSDPStrategy(), ModelParallelStrategy()])
def test_strategies_that_divide_weights_are_refused(strategy: str | Strategy) -> None:
    with pytest.raises(InputError, match=r"--trainer\.strategy ddp"):
        check_strategy(strategy)


def test_a_module_refuses_them_without_the_command_line(tiny_llama_dir: Path, tmp_path: Path) -> None:
    fit = pl.Trainer(
        default_root_dir=tmp_path, accelerator="cpu", devices=1, strategy="auto", logger=False, max_steps=1
    )
    module = CausalLMModule(str(tiny_llama_dir), lora=LoraSettings(r=2, lora_alpha=4))
    module.trainer = fit
    fit._accelerator_connector.strategy = ModelParallelStrategy()
    with pytest.raises(InputError, match=r"--trainer\.strategy ddp"):
        module.configure_model()


@pytest.mark.parametrize("strategy", ["auto", "ddp", DDPStrategy()])
def test_strategies_that_copy_weights_pass(strategy: str | Strategy) -> None:
    check_strategy(strategy)


@pytest.mark.parametrize(
    ("strategy", "name"),
    [
        ("fsdp", "fsdp"),
        ("deepspeed_stage_2", "deepspeed_stage_2"),
        ("{class_path: lightning.pytorch.strategies.ModelParallelStrategy}", "ModelParallelStrategy"),
    ],
)
def test_the_command_line_refuses_them_before_anything_is_loaded(
    strategy: str,
    name: str,
    tiny_llama_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = ["--config", str(ROOT / "configs/cpt.yaml"), "--config", str(ROOT / "configs/tiny.yaml")]
    stage = ["taigi_lightning", "fit", *config, "--model.base", str(tiny_llama_dir)]
    monkeypatch.setattr(sys, "argv", [*stage, "--trainer.strategy", strategy])
    assert main() == 1
    printed = capsys.readouterr().err
    assert f"error: trainer.strategy is {name}" in printed
    assert "--trainer.strategy ddp" in printed
    assert "Traceback" not in printed


# ---- SLURM ----------------------------------------------------------------------------------------


@pytest.mark.posix("SIGUSR1")
def test_slurm_is_found_and_its_requeue_signal_stays_lightnings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "SLURM_JOB_ID": "1", "SLURM_JOB_NAME": "taigi", "SLURM_NTASKS": "4", "SLURM_NNODES": "2",
        "SLURM_NTASKS_PER_NODE": "2", "SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_NODEID": "1",
        "SLURM_NODELIST": "node[1-2]", "SLURM_JOB_NODELIST": "node[1-2]",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    # The strategy makes this process rank 3 for good: later tests of it would find every rank-zero message gone.
    monkeypatch.setattr(rank_zero_only, "rank", 0)
    trainer = pl.Trainer(accelerator="cpu", devices=2, num_nodes=2, strategy="ddp", logger=False)
    connector = trainer._accelerator_connector
    assert isinstance(connector.cluster_environment, SLURMEnvironment)
    assert (trainer.world_size, trainer.global_rank, trainer.node_rank) == (4, 3, 1)

    requeue, before = signal.getsignal(signal.SIGUSR1), signal.getsignal(signal.SIGTERM)
    callback = SaveOnSignal()
    callback.on_train_start(trainer, pl.LightningModule())
    try:
        assert signal.getsignal(signal.SIGUSR1) == requeue
        assert signal.getsignal(signal.SIGTERM) == callback._receive
    finally:
        callback.teardown(trainer, pl.LightningModule(), "fit")
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize(("waiting", "layers"), [(1, 1), ("all", 2)])
def test_ddp_leaves_alone_exactly_what_waits_on_the_host(
    waiting: Any, layers: int, tiny_llama_dir: Path
) -> None:
    """What is not on the card, which DDP refuses, and nothing that came back to it after loading."""
    module = CausalLMModule(base=str(tiny_llama_dir), lora=LoraSettings(r=4), weights_on_host=waiting)
    module.configure_model()
    held = {f"{name}.weight" for name, part in module.named_modules() if held_in_place(part)}
    assert set(module._ddp_params_and_buffers_to_ignore) == held
    assert len(held) == 7 * layers


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
