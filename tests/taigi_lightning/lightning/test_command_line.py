"""What a Lightning user writes on the command line on the second day: it works, or one sentence says why not."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.cli import LightningCLI

from taigi_lightning import CausalLMModule, CPTDataModule
from taigi_lightning.cli.lightning_cli import TaigiCLI
from tests.taigi_lightning.cli.test_lightning_cli import call

STAGE = "--config configs/cpt.yaml --config configs/tiny.yaml --model.base models/base --data.init_args.max_length 64 "
FIT = STAGE + (
    "--trainer.max_steps 2 --trainer.val_check_interval 2 --model.lora.r 2 --checkpoint.every_n_train_steps 1 "
    "--export.merge false --trainer.enable_progress_bar false "
)
OWN = """
from taigi_lightning import CausalLMModule


class Mine(CausalLMModule):
    def __init__(self, greeting: str = "hello", **options):
        super().__init__(**options)
        self.greeting = greeting

    def on_train_start(self):
        print("the module says", self.greeting)
"""
OVERLAY = "trainer: {logger: {class_path: CSVLogger, init_args: {save_dir: laid_over}}}"
# After `fit`, unless they begin with another command: options, the exit code, words that are said or `FILE: a pattern`.
USES = {
    "barebones": ("--trainer.barebones true", 0, "Adapter: models/cpt_model/adapter"),
    "no checkpoints, but a table of the model": (
        "--trainer.enable_checkpointing false --trainer.enable_model_summary true", 0,
        "counts bytes where weights have 4 bits"
    ),
    "torch's AdamW and an average": (
        "--model.optimizer AdamW --model.optimizer.lr 1e-3 --trainer.callbacks EMAWeightAveraging "
        "--trainer.callbacks.decay 0.5", 0, "Adapter:"
    ),
    "a module of one's own": ("--model mine.Mine --model.greeting lí-hó", 0, "the module says lí-hó"),
    "TensorBoard beside CSV": (
        "--trainer.logger TensorBoardLogger --trainer.logger.save_dir board", 0, "FILE: board/**/events.out.tfevents*"
    ),
    "two loggers, of which one is laid over": (
        "--trainer.logger+=CSVLogger --trainer.logger.save_dir mine", 0, "FILE: mine/**/metrics.csv"
    ),
    "validate logs where it is asked to": (
        "validate --trainer.logger CSVLogger --trainer.logger.save_dir mine", 0, "FILE: mine/**/metrics.csv"
    ),
    "validate logs to what is laid over": ("validate --config over.yaml", 0, "FILE: laid_over/**/metrics.csv"),
    "validate to what is not installed": ("validate --trainer.logger WandbLogger", 1, "package wandb is not installed"),
    "a module that is not there": ("--model mine.Yours", 1, "names a class that is not there: mine.Yours"),
    "another class as module": ("--model os.PathLike", 1, "does not derive from CausalLMModule"),
    "64 bits": ("--trainer.precision 64", 1, "the base is computed in 32 bits at most"),
    "16 bits": ("--trainer.precision bf16-true", 1, "would store the adapter in 16 bits"),
    "spawned processes": ("--trainer.strategy ddp_spawn --trainer.devices 2", 1, "Use --trainer.strategy ddp,"),
    "spawned processes by class": (
        "--trainer.strategy DDPStrategy --trainer.strategy.start_method spawn", 1, "Use --trainer.strategy ddp,"
    ),
    "sharded weights": ("--trainer.strategy fsdp", 1, "which divides the weights among GPUs"),
    "bitsandbytes twice": (
        "--trainer.plugins BitsandbytesPrecision --trainer.plugins.mode nf4", 1, "would convert the adapter"
    ),
    "an average of epochs": (
        "--trainer.callbacks StochasticWeightAveraging --trainer.callbacks.swa_lrs 1e-3", 1, "Lightning refuses this"
    ),
    "a package that is not there": ("--trainer.logger MLFlowLogger", 1, "a package that is not installed"),
}  # fmt: skip


@pytest.fixture
def folder(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a module and a config of one's own, where wandb is not installed."""
    (home / "mine.py").write_text(OWN)
    (home / "over.yaml").write_text(OVERLAY)
    monkeypatch.syspath_prepend(home)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    monkeypatch.setitem(sys.modules, "wandb", None)
    # What options a class has is found once a process: without wandb its logger has fewer, for later tests as well.
    monkeypatch.setattr("jsonargparse._typehints._cached_class_parsers", {})
    return home


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", USES)
def test_uses_of_the_command_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    options, wanted, words = USES[name]
    validates = options.startswith("validate")
    line = f"validate {STAGE} {options.removeprefix('validate')}" if validates else f"fit {FIT}{options}"
    code = call(monkeypatch, *line.split())
    said = "".join(capfd.readouterr())
    assert code == wanted, said[-2000:]
    if words.startswith("FILE: "):
        assert list(folder.glob(words.removeprefix("FILE: ")))
        assert validates or list(folder.glob("models/cpt_model/logs/**/metrics.csv"))
    else:
        assert words in said
    assert "Traceback" not in said


@pytest.mark.filterwarnings("ignore")
def test_validate_needs_nothing_that_only_fit_logs_to(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "WandbLogger" in (folder / "configs" / "cpt.yaml").read_text()
    stage = STAGE.replace("--config configs/tiny.yaml", "--trainer.accelerator cpu")
    assert call(monkeypatch, "validate", *stage.split()) == 0


@pytest.mark.filterwarnings("ignore")
def test_weights_alone_are_passed_over_and_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "fit", *FIT.split(), "--checkpoint.save_weights_only", "true") == 0
    assert call(monkeypatch, "fit", *FIT.split(), "--ckpt_path", "last") == 1
    assert "it holds weights alone, without the optimizer's state" in capfd.readouterr().out
    named = str(next(folder.glob("models/cpt_model/checkpoints/*.ckpt")))
    assert call(monkeypatch, "fit", *FIT.split(), "--ckpt_path", named) == 1
    assert "a run cannot go on from it" in capfd.readouterr().err
    assert call(monkeypatch, "validate", *STAGE.split(), "--model.lora.r", "2", "--ckpt_path", named) == 0


class Mine(CausalLMModule):
    def __init__(self, greeting: str = "hello", **options: Any) -> None:
        super().__init__(**options)
        self.greeting = greeting

    def on_train_start(self) -> None:
        print("the module says", self.greeting)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("reads", [False, True])
def test_variables_count_where_one_asks_for_them(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], reads: bool
) -> None:
    monkeypatch.setenv("PL_FIT__MODEL__GREETING", "goa2 lai5-a")
    monkeypatch.setattr(sys, "argv", ["mine.py", "fit", *FIT.split()])
    TaigiCLI(Mine, **({"parser_kwargs": {"default_env": True}} if reads else {}))
    said = "the module says goa2 lai5-a" if reads else "the module says hello"
    assert said in capfd.readouterr().out


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("automatic", [False, True])
def test_a_plain_lightning_cli_over_our_classes(
    folder: Path, monkeypatch: pytest.MonkeyPatch, automatic: bool
) -> None:
    optimizer = "--optimizer" if automatic else "--model.optimizer"
    schedule = (
        "--lr_scheduler StepLR --lr_scheduler.step_size 1 --lr_scheduler.gamma 0.5 " if automatic else ""
    )
    line = (
        "fit --model.base models/base --model.lora.r 2 --data.data_dir data/cpt_corpus --data.tokenizer models/base "
        f"--data.max_length 64 --data.batch_size 8 --trainer.accelerator cpu --trainer.max_epochs 2 {schedule}"
        f"{optimizer} torch.optim.SGD {optimizer}.lr 0.1 --trainer.logger false --trainer.enable_checkpointing false"
    )
    monkeypatch.setattr(sys, "argv", ["cli.py", *line.split()])
    cli = LightningCLI(
        CausalLMModule, CPTDataModule, auto_configure_optimizers=automatic, save_config_callback=None
    )
    (used,) = cli.trainer.optimizers
    assert isinstance(used, torch.optim.SGD)
    assert used.param_groups[0]["lr"] == pytest.approx(0.1 / 4 if automatic else 0.0)  # else by our cosine
    assert any(value.abs().max() > 0 for name, value in cli.model.state_dict().items() if "lora_B" in name)
