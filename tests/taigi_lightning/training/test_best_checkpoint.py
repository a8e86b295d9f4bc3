"""The best checkpoint is kept beside the newest, through kills and resumes, and is what `which: best` exports."""

import json
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import DataLoader

from taigi_lightning.errors import InputError
from taigi_lightning.planning.run_log import read_run_log
from taigi_lightning.training.best_checkpoint import TakeBest, check_best, checkpoint_callbacks
from taigi_lightning.training.checkpoint_files import AsideCheckpointIO
from taigi_lightning.training.checkpoints import find_checkpoint
from taigi_lightning.training.step_metrics import check_early_stopping
from tests.taigi_lightning.cli.test_lightning_cli import call
from tests.taigi_lightning.training.one_weight import OneWeight
from tests.working_folder import CPT

LOSSES = {2: 3.0, 4: 1.0, 6: 2.0, 8: 2.5, 10: 0.5, 12: 4.0}  # by the step they are measured at


class Killed(Callback):
    """Ends a run in the middle, as a kill does: nothing is saved any more."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            raise RuntimeError("killed")


class Exported(Callback):
    """Asks for the best, as ExportModel does."""

    which = "best"


def fit(
    root: Path, *more: Callback, resume: str | None = None, steps: int = 12, window: int = 1, **options: Any
) -> pl.Trainer:
    """Train one weight, validate every second step, keep checkpoints in `root/checkpoints`."""
    settings: dict[str, Any] = {
        "dirpath": str(root / "checkpoints"), "filename": "{step}", "monitor": "val/loss", "mode": "auto",
        "save_top_k": 1, "save_weights_only": False, "every_n_train_steps": 3, "train_time_interval": None,
        "enable_version_counter": False,
    }  # fmt: skip
    callbacks = [TakeBest(), *more, Exported(), *checkpoint_callbacks(settings | options)]
    trainer = pl.Trainer(
        default_root_dir=root, accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_model_summary=False, max_steps=steps, callbacks=callbacks, plugins=[AsideCheckpointIO()],
        val_check_interval=2, accumulate_grad_batches=window, num_sanity_val_steps=0, check_val_every_n_epoch=None,
    )  # fmt: skip
    data: DataLoader[Tensor] = DataLoader(torch.ones(100, 1))  # type: ignore[arg-type]
    module = OneWeight(lambda step: LOSSES.get(step, 9.0))
    trainer.fit(module, data, data, ckpt_path=resume, weights_only=True)
    return trainer


def weight(trainer: pl.Trainer) -> float:
    """How many steps the weights that were taken had been trained."""
    return -float(trainer.lightning_module.weight)  # type: ignore[arg-type]


def kept(root: Path) -> set[str]:
    folder = root / "checkpoints"
    return {path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.ckpt")}


@pytest.mark.filterwarnings("ignore")
def test_the_best_is_kept_beside_the_newest_and_taken(tmp_path: Path) -> None:
    assert weight(fit(tmp_path)) == 10
    assert kept(tmp_path) == {"best/step=10", "step=9", "step=12"}
    assert find_checkpoint("best", tmp_path).endswith("best/step=10.ckpt")
    assert find_checkpoint("last", tmp_path).endswith("checkpoints/step=12.ckpt")
    assert weight(fit(tmp_path / "accuracy", monitor="val/accuracy", save_top_k=2)) == 10
    assert kept(tmp_path / "accuracy") == {"best/step=10", "best/step=4", "step=9", "step=12"}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("killed", "resume", "wanted"),
    [
        # Step 4, the best so far, was kept after step 3, from which the run goes on. Trained again, it comes again.
        (5, "step=3", 4),
        (9, "step=6", 4),  # known to the one that it goes on from
        (11, "step=9", 4),  # step 10 is not of the run any more that goes on from 9 and ends there
        (7, "best/step=4", 4),
    ],
)
def test_a_resumed_run_keeps_the_best(tmp_path: Path, killed: int, resume: str, wanted: int) -> None:
    with pytest.raises(RuntimeError, match="killed"):
        fit(tmp_path, Killed(killed), save_top_k=2)
    (tmp_path / "checkpoints/best/step=10.ckpt").unlink(missing_ok=True)
    name = str(tmp_path / f"checkpoints/{resume}.ckpt")
    assert weight(fit(tmp_path, resume=name, steps=9, save_top_k=2)) == wanted


@pytest.mark.filterwarnings("ignore")
def test_a_finished_run_that_is_exported_again_takes_the_best(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(tmp_path)
    name = find_checkpoint("last", tmp_path)
    assert weight(fit(tmp_path, resume=name)) == 10
    (tmp_path / "checkpoints/best/step=10.ckpt").unlink()
    assert weight(fit(tmp_path, resume=name)) == 12
    assert "not in" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore")
def test_early_stopping_takes_the_best(tmp_path: Path) -> None:
    run = fit(tmp_path, EarlyStopping("val/loss", patience=2))
    assert (run.global_step, weight(run)) == (8, 4)


class Checked(Callback):
    """As a CausalLMModule's StepMetrics does."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        check_early_stopping(trainer)


@pytest.mark.filterwarnings("ignore")
def test_validations_of_the_same_weights_do_not_end_a_run(tmp_path: Path) -> None:
    """Four validations come before an optimizer step, of which three would be no better than the first."""
    with pytest.raises(InputError, match=r"would end the run.* to 8 or more"):
        fit(tmp_path, EarlyStopping("val/loss", patience=3), Checked(), window=8)
    assert fit(tmp_path, EarlyStopping("val/loss", patience=9), Checked(), window=8, steps=2).global_step == 2


@pytest.mark.filterwarnings("ignore")
def test_weights_alone_are_no_place_to_go_on_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="would not find its best by val/loss again"):
        fit(tmp_path, save_weights_only=True)
    run = fit(tmp_path, steps=6)
    run.save_checkpoint(tmp_path / "checkpoints/step=7.ckpt", weights_only=True)
    (tmp_path / "checkpoints/step=6.ckpt").unlink()
    assert find_checkpoint("last", tmp_path).endswith("best/step=4.ckpt")
    assert "it holds weights alone" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore")
def test_without_a_validation_the_last_step_is_taken_aloud(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert weight(fit(tmp_path, steps=1)) == 1
    assert "the weights of the last step are exported" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"Give --checkpoint\.monitor val/loss"):
        check_best(fit(tmp_path / "newest", monitor="step", steps=1))


BEST = [
    *CPT, "--trainer.max_steps", "-1", "--trainer.max_epochs", "1", "--trainer.val_check_interval", "2",
    "--checkpoint.monitor", "val/loss", "--export.which", "best", "--trainer.enable_progress_bar", "false",
]  # fmt: skip


STOP = ["--trainer.callbacks", "EarlyStopping", "--trainer.callbacks.monitor", "val/loss"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("patience", [None, 1])
def test_the_command_line_exports_the_best_and_says_which(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], patience: int | None
) -> None:
    """Packed rows by the epoch, at so high a rate that the last step is not the best one; stopped early or not."""
    rate = ["--model.optimizer.init_args.lr", "0.3", "--model.lr_scheduler", "constant_with_warmup"]
    wild = ["--model.warmup_steps", "0", "--model.lora.r", "64", "--trainer.gradient_clip_val", "null"]
    stop = [*STOP, f"--trainer.callbacks.patience={patience}", "--trainer.max_epochs=3"] if patience else []
    assert call(monkeypatch, *BEST, *rate, *wild, *stop) == 0
    run = json.loads((home / "models/cpt_model/adapter/lineage.json").read_text(encoding="utf-8"))["run"]
    assert run["checkpoint"]["which"] == "best"
    state = torch.load(home / "models/cpt_model/checkpoints/best" / run["checkpoint"]["path"])["state_dict"]
    exported = load_file(home / "models/cpt_model/adapter/adapter_model.safetensors")
    named = {name.removeprefix("model.").replace(".default", ""): value for name, value in state.items()}
    assert named.keys() == exported.keys()
    assert all(torch.equal(exported[name], value) for name, value in named.items())
    logged = read_run_log(home / "models/cpt_model").metrics
    losses = dict(logged["val/loss"])
    best, steps = run["checkpoint"]["step"], int(logged["train/loss"][-1][0])
    assert best == min(losses, key=lambda step: losses[step]) < steps
    # 36 texts in 27 rows of 64 tokens, 4 a micro-batch: an epoch has 7 steps.
    assert steps == (7 if patience is None else best + 2)
    page = (home / "models/cpt_model/report.html").read_text(encoding="utf-8")
    assert f"best, step {best}" in page and "the best by val/loss" in page
    assert "Best: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--checkpoint.monitor", "step"], "no checkpoint is kept by a figure"),
        (["--trainer.enable_checkpointing", "false"], "no checkpoint is kept by a figure"),
        (["--checkpoint.monitor", "val_loss"], "Did you mean val/loss?"),
        (["--checkpoint.monitor", "val/f1"], "which nothing logs"),
        (["--checkpoint.monitor", "val/accuracy"], "only questions have"),
        (["--checkpoint.mode", "max"], "takes the worst for the best"),
        (["--data.init_args.validation_split", "null"], "nothing is held out"),
        (["--trainer.limit_val_batches", "0"], "nothing is held out"),
        (["--trainer.max_steps", "9", "--trainer.val_check_interval", "10"], "before its first validation"),
        (["--checkpoint.monitor", "val/loss/wiki"], "which nothing logs"),
        (
            [
                "--trainer.max_epochs",
                "2",
                "--trainer.val_check_interval",
                "1.0",
                "--trainer.check_val_every_n_epoch",
                "3",
            ],
            "ends after 2 epochs, before its first validation after 3",
        ),
        (["--checkpoint.monitor", "train/loss", "--trainer.max_steps", "9"], "looked at every 100 steps"),
        ([*STOP, "--trainer.callbacks.check_on_train_epoch_end", "true"], "Leave that out"),
        (
            ["--trainer.callbacks", "EarlyStopping", "--trainer.callbacks.monitor", "val_acc"],
            "EarlyStopping watches val_acc, which nothing logs",
        ),
    ],
)
def test_what_could_not_be_best_is_refused_in_a_sentence(
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    words: str,
) -> None:
    assert call(monkeypatch, *BEST, *options) == 1
    assert words in " ".join(capsys.readouterr().err.split())
    assert not (home / "models/cpt_model").exists()


@pytest.mark.filterwarnings("ignore")
def test_what_an_earlier_version_kept_among_the_newest_is_found(tmp_path: Path) -> None:
    """It had one callback for both, in one folder."""
    with pytest.raises(RuntimeError, match="killed"):
        fit(tmp_path, Killed(7), save_top_k=2)
    folder = tmp_path / "checkpoints"
    for path in folder.glob("step=*.ckpt"):
        path.unlink()
    for path in (folder / "best").iterdir():
        content = torch.load(path)
        for name, state in content["callbacks"].items():
            if "val/loss" in name:
                kept = {key.replace("/best/", "/"): score for key, score in state["best_k_models"].items()}
                state["best_k_models"] = kept
        torch.save(content, folder / path.name)
        path.unlink()
    assert find_checkpoint("best", tmp_path) == str(folder / "step=4.ckpt")
    assert weight(fit(tmp_path, resume=find_checkpoint("last", tmp_path), steps=8, save_top_k=2)) == 4
