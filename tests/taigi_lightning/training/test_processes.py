"""Runs in processes of their own: stopped and resumed, two at once."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import lightning.pytorch as pl
import pytest
import torch

from tests.taigi_lightning.model.sharing_ranks import mappings, shared_bytes
from tests.warm_python import WarmPython
from tests.working_folder import CPT, environment, small_corpus

SIGNALS = "signals to a process, which end it at once on Windows"
SEVERAL = "several processes, which PyTorch for Windows cannot let train together"


def command(*more: str, python: str = sys.executable) -> list[str]:
    steps = ["--trainer.max_steps", "12", "--checkpoint.every_n_train_steps", "3", "--model.lora.r", "4"]
    return [python, "-m", "taigi_lightning", *CPT, *steps, *more]


class Wait(pl.Callback):
    """Makes a file `waiting` at a hook, and waits there for a signal: what it finds depends on no machine's speed."""

    def __init__(self, hook: str, step: int = 0) -> None:
        self.step = step
        setattr(self, hook, self.wait)

    def wait(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        if trainer.global_step != self.step:
            return
        arrived, arrives = os.pipe()
        os.set_blocking(arrives, False)
        before = signal.set_wakeup_fd(arrives)
        Path("waiting").touch()
        os.read(arrived, 1)
        signal.set_wakeup_fd(before)


def waits(hook: str, step: int = 0) -> list[str]:
    """Options for a run that does so."""
    name = f"{__name__}.Wait"
    return [
        "--trainer.callbacks",
        name,
        "--trainer.callbacks.hook",
        hook,
        "--trainer.callbacks.step",
        str(step),
    ]


def wait_for(run: "subprocess.Popen[str]", folder: Path) -> None:
    """Until the run in this folder waits."""
    while not (folder / "waiting").exists():
        assert run.poll() is None, "it ended before"
        time.sleep(0.01)


def trained(folder: Path, step: int = 12) -> dict[str, torch.Tensor]:
    checkpoint = torch.load(folder / "checkpoints" / f"step={step}.ckpt", weights_only=True)
    weights: dict[str, torch.Tensor] = checkpoint["state_dict"]
    return weights


@pytest.fixture(scope="module")
def unbroken(
    tmp_path_factory: pytest.TempPathFactory, tiny_llama_dir: Path, warm_python: WarmPython
) -> dict[str, torch.Tensor]:
    """What a run that nothing stops has trained."""
    folder = small_corpus(tmp_path_factory.mktemp("unbroken"), tiny_llama_dir)
    done = warm_python.run("taigi_lightning", command()[3:], folder)
    assert done.code == 0, done.err[-3000:]
    return trained(folder / "models" / "cpt_model")


@pytest.mark.posix(SIGNALS)
@pytest.mark.parametrize(
    ("name", "weights_on_host"),
    [
        ("SIGKILL", "all"),  # the unbroken one has its weights beside the layers: the same bits
        pytest.param("SIGKILL", "none", marks=pytest.mark.slow),
        ("SIGTERM", "none"),
    ],
)
def test_a_run_that_is_stopped_and_resumed_ends_as_the_unbroken_one(
    home: Path, warm_python: WarmPython, unbroken: dict[str, torch.Tensor], name: str, weights_on_host: str
) -> None:
    number = signal.Signals[name]
    where = ["--model.weights_on_host", weights_on_host]
    python = sys.executable if name == "SIGKILL" else warm_python.executable
    with subprocess.Popen(
        command(*where, *waits("on_train_batch_start", step=3), python=python),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(),
    ) as run:
        wait_for(run, home)
        run.send_signal(number)
        output = run.communicate(timeout=120)[0]
    if name != "SIGKILL":
        assert "SIGTERM: finishing this step" in output
        assert "Resume with --ckpt_path last" in output
        assert "KeyboardInterrupt" not in output
        assert run.returncode == 128 + number
    again = warm_python.run("taigi_lightning", command(*where, "--ckpt_path", "last")[3:], home)
    assert again.code == 0, again.err[-3000:]
    found = trained(home / "models" / "cpt_model")
    assert unbroken.keys() == found.keys()
    assert all(torch.equal(unbroken[name], found[name]) for name in found)


# The command, which waits for a signal where it begins to import a module, however fast the machine is.
WAITING = """
import os, signal, sys
from taigi_lightning.__main__ import process

arrived, arrives = os.pipe()
os.set_blocking(arrives, False)
signal.set_wakeup_fd(arrives)

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.write(1, b"reached\\n")
            os.read(arrived, 1)

sys.meta_path.insert(0, Watch())
sys.exit(process())
"""


def start(python: Sequence[str], *more: str) -> "subprocess.Popen[str]":
    """The command in a Python that is run with these words."""
    words = [*python, *command(*more)[3:]]
    return subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    )


@pytest.mark.posix(SIGNALS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("module", ["taigi_lightning.cli.preflight", "torch"])
def test_stopped_during_the_imports_it_says_so_in_one_line(
    home: Path, number: signal.Signals, module: str
) -> None:
    with start([sys.executable, "-c", WAITING.format(module=module)]) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "reached\n"
        run.send_signal(number)
        output, errors = run.communicate(timeout=60)
    assert run.returncode == 128 + number
    said = [] if module != "torch" else [errors.splitlines()[0]]
    assert all(line.startswith("fit: ") for line in said)
    assert (output, errors.splitlines()) == ("", [*said, "", f"{number.name}: stopped."])


@pytest.mark.posix(SIGNALS)
@pytest.mark.parametrize(("number", "hook"), [(signal.SIGINT, "setup"), (signal.SIGTERM, "on_train_start")])
def test_stopped_before_the_first_step_it_saves_nothing_and_does_not_end_as_if_done(
    home: Path, warm_python: WarmPython, number: signal.Signals, hook: str
) -> None:
    with start([warm_python.executable, "-m", "taigi_lightning"], *waits(hook)) as run:
        wait_for(run, home)
        run.send_signal(number)
        _, errors = run.communicate(timeout=60)
    assert run.returncode == 128 + number
    assert f"\n{number.name}: stop" in errors
    assert "Traceback" not in errors
    assert not list(home.glob("models/cpt_model/checkpoints/*"))


# ---- two processes --------------------------------------------------------------------------------


def run_until(folder: Path, step: int, python: str, *more: str) -> dict[str, torch.Tensor]:
    """Train without dropout to a step; returns what was trained.

    Args:
        folder: the current one of the run, and of the ranks that it starts by the same `python`.
    """
    arguments = [
        *CPT, "--trainer.max_steps", str(step), "--model.lora.r", "4", "--model.lora.lora_dropout", "0.0",
        "--checkpoint.every_n_train_steps", str(step), *more,
    ]  # fmt: skip
    done = subprocess.run(
        [python, "-m", "taigi_lightning", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**environment(), "PYTHON_EXEC": python},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return trained(folder / "models" / "cpt_model", step)


SFT = ["--data.class_path", "CPTDataModule", "--data.init_args.packing", "false"]


@pytest.fixture(scope="module")
def alone(
    tmp_path_factory: pytest.TempPathFactory, tiny_llama_dir: Path, warm_python: WarmPython
) -> dict[str, torch.Tensor]:
    """What one process trains, four rows at a time."""
    folder = small_corpus(tmp_path_factory.mktemp("alone"), tiny_llama_dir)
    return run_until(folder, 4, warm_python.executable, *SFT, "--data.init_args.batch_size", "4")


def ranks(number: int) -> list[str]:
    """Options for several processes that see the same four rows together."""
    size = ["--data.init_args.batch_size", str(4 // number)]
    anywhere = ["--trainer.accelerator", "auto"] if number > 2 else []  # `cpu` asks a core for each
    return [*SFT, *size, *anywhere, "--trainer.strategy", "ddp", "--trainer.devices", str(number)]


@pytest.mark.posix(SEVERAL)
def test_two_processes_train_as_one_with_the_whole_batch(
    home: Path, warm_python: WarmPython, alone: dict[str, torch.Tensor]
) -> None:
    shared = run_until(home, 4, warm_python.executable, *ranks(2))
    assert alone.keys() == shared.keys()
    for name, value in alone.items():
        torch.testing.assert_close(shared[name], value, rtol=1e-4, atol=1e-6)
    assert len(list((home / "models/cpt_model/logs").rglob("metrics.csv"))) == 1
    assert (home / "models/cpt_model/config.json").is_file()


class Watch(pl.Callback):
    """Notes what a rank holds in shared memory as it trains, and which frozen weights DDP does not know of."""

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        ignored: Any = trainer.strategy.model
        packed = [n for n, p in pl_module.named_parameters() if isinstance(p, bnb.nn.Params4bit)]
        found = {
            "shared": shared_bytes(),
            "packed": sum(pl_module.get_parameter(name).nbytes for name in packed),
            "files": [file for _, file in mappings()],
            "ignored": set(packed) == set(ignored.parameters_to_ignore),
        }
        Path(f"rank-{trainer.global_rank}.json").write_text(json.dumps(found))


@pytest.mark.posix(SEVERAL)
@pytest.mark.parametrize("number", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_ranks_whose_weights_wait_on_the_host_train_as_one_and_hold_them_once(
    home: Path, warm_python: WarmPython, alone: dict[str, torch.Tensor], number: int
) -> None:
    waiting = ["--model.weights_on_host", "all", "--model.packed_cache", "models/packed"]
    watch = ["--trainer.callbacks", f"{__name__}.Watch"]
    together = run_until(home, 4, warm_python.executable, *ranks(number), *waiting, *watch)
    for name, value in alone.items():
        torch.testing.assert_close(together[name], value, rtol=1e-4, atol=1e-6)
    found = [json.loads((home / f"rank-{rank}.json").read_text()) for rank in range(number)]
    assert all(rank["ignored"] for rank in found)
    assert {tuple(sorted(rank["files"])) for rank in found} == {tuple(sorted(found[0]["files"]))}
    assert len(found[0]["files"]) == 2  # one for each layer
    # Whole pages, of which another of the ranks maps each as well.
    assert (
        found[0]["packed"] <= sum(rank["shared"] for rank in found) < found[0]["packed"] + 2 * 4096 * number
    )
    assert len(list((home / "models" / "packed").iterdir())) == 1
