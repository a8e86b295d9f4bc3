"""Features of Lightning's Trainer, and what becomes of each over our module: a row is a feature and its result."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch import callbacks as c
from lightning.pytorch.cli import ReduceLROnPlateau
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.tuner import Tuner

from taigi_lightning.errors import InputError
from taigi_lightning.model.adapters import LoraSettings
from taigi_lightning.training.checkpoint_files import RunCheckpoint
from taigi_lightning.training.checkpoints import find_checkpoint
from taigi_lightning.training.module import CausalLMModule
from tests.taigi_lightning.lightning.test_gradients import Rows
from tests.taigi_lightning.training.test_module import batches, loader, trainer


def make(base: Path, **options: Any) -> CausalLMModule:
    pl.seed_everything(9527)
    settings: dict[str, Any] = {
        "lora": LoraSettings(r=4, lora_alpha=8, lora_dropout=0.1),
        "optimizer": lambda parameters: torch.optim.AdamW(parameters, lr=1e-2),
        "lr_scheduler": "constant_with_warmup",
    }
    return CausalLMModule(str(base), **(settings | options))


def rows_of(batch: Any) -> int:
    return int(batch["input_ids"].shape[0])


# The trainer's options, and how many optimizer steps they give over four micro-batches and two held-out ones.
WORKS: dict[str, tuple[dict[str, Any], int]] = {
    "overfit_batches": ({"max_steps": 3, "overfit_batches": 1}, 3),
    "limit_val_batches 0": ({"max_steps": 2, "limit_val_batches": 0}, 2),
    "val_check_interval 0.5": ({"max_epochs": 1, "val_check_interval": 0.5}, 4),
    "clipping by value": (
        {"max_steps": 2, "gradient_clip_val": 1e-3, "gradient_clip_algorithm": "value"}, 2
    ),
    "accumulation by epoch": (
        {"max_epochs": 2, "callbacks": [c.GradientAccumulationScheduler({0: 1, 1: 2})]}, 6
    ),
    "fast_dev_run": ({"fast_dev_run": True}, 1),
    "detect_anomaly": ({"max_steps": 1, "detect_anomaly": True}, 1),
    "simple profiler": ({"max_steps": 1, "profiler": "simple"}, 1),
    "rich progress bar": ({"max_steps": 1, "callbacks": [c.RichProgressBar()], "enable_progress_bar": True}, 1),
    "device statistics": ({"max_steps": 1, "callbacks": [c.DeviceStatsMonitor()], "logger": True}, 1),
    "learning rate monitor": ({"max_steps": 1, "callbacks": [c.LearningRateMonitor()], "logger": True}, 1),
    "throughput monitor": ({"max_steps": 2, "callbacks": [c.ThroughputMonitor(rows_of)], "logger": True}, 2),
    "early stopping": ({"max_epochs": 2, "callbacks": [c.EarlyStopping("val/loss")]}, 8),
    "timer": ({"max_steps": 2, "callbacks": [c.Timer("00:00:10:00")]}, 2),
    "barebones": ({"max_steps": 1, "barebones": True}, 1),
    "no inference mode": ({"max_steps": 2, "inference_mode": False}, 2),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("feature", WORKS)
def test_what_works(tiny_llama_dir: Path, tmp_path: Path, feature: str) -> None:
    options, steps = WORKS[feature]
    if options.get("logger"):
        options = options | {"logger": CSVLogger(tmp_path)}
    module = make(tiny_llama_dir)
    if options.get("barebones"):
        run = pl.Trainer(accelerator="cpu", default_root_dir=tmp_path, **options)
    else:
        run = trainer(tmp_path, **options)
    run.fit(module, loader(batches(4)), loader(batches(2)))
    assert run.global_step == steps
    assert any(value.abs().max() > 0 for name, value in module.state_dict().items() if "lora_B" in name)


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "64 bits": ({"precision": 64}, {}, "computed in 32 bits at most"),
    "16 bits": ({"precision": "bf16-true"}, {}, "store the adapter in 16 bits"),
    "a plateau of nothing": ({}, {"lr_scheduler": torch.optim.lr_scheduler.ReduceLROnPlateau}, "nothing is held out"),
    "a schedule too short": (
        {}, {"lr_scheduler": lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 1e-2, total_steps=1)}, "as many steps"
    ),
    "a run without an end": ({"max_steps": -1, "max_epochs": -1}, {"lr_scheduler": "cosine"}, "where the run ends"),
    "FSDP2": ({"strategy": ModelParallelStrategy()}, {}, "divides the weights"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("feature", REFUSED)
def test_what_is_refused_in_a_sentence(tiny_llama_dir: Path, tmp_path: Path, feature: str) -> None:
    options, settings, words = REFUSED[feature]
    with pytest.raises(InputError, match=words):
        trainer(tmp_path, **({"max_steps": 3} | options)).fit(
            make(tiny_llama_dir, **settings), loader(batches(4))
        )
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def test_a_found_rate_is_followed(tiny_llama_dir: Path, tmp_path: Path) -> None:
    module = make(tiny_llama_dir, lora_plus_ratio=16)
    run = trainer(tmp_path, max_steps=2)
    search: Any = Tuner(run).lr_find(module, loader(batches(8)), num_training=15)
    run.fit(module, loader(batches(4)))
    groups = [group["lr"] for group in run.optimizers[0].param_groups]
    assert groups == pytest.approx([search.suggestion(), 16 * search.suggestion()])
    finder = c.LearningRateFinder(num_training_steps=15)
    again = trainer(tmp_path, max_steps=2, callbacks=[finder])
    again.fit(make(tiny_llama_dir, lora_plus_ratio=16), loader(batches(8)))
    assert finder.optimal_lr is not None
    rate = finder.optimal_lr.suggestion()
    assert [g["lr"] for g in again.optimizers[0].param_groups] == pytest.approx([rate, 16 * rate])


def test_a_plateau_counts_validations(tiny_llama_dir: Path, tmp_path: Path) -> None:
    def falling(optimizer: Any) -> Any:
        return ReduceLROnPlateau(
            optimizer, monitor="val/loss", patience=0, factor=0.5, threshold=9.0, threshold_mode="abs"
        )

    run = trainer(tmp_path, max_steps=6, val_check_interval=2)
    run.fit(make(tiny_llama_dir, lr_scheduler=falling), loader(batches(6)), loader(batches(1)))
    assert (
        run.optimizers[0].param_groups[0]["lr"] == 1e-2 / 4
    )  # three validations, of which the first is the best


@pytest.mark.filterwarnings("ignore")
def test_a_run_of_epochs_goes_on_in_the_middle_of_one(tiny_llama_dir: Path, tmp_path: Path) -> None:
    def fit(folder: Path, resume: Any = None) -> CausalLMModule:
        saving = RunCheckpoint(
            folder, "{step}", save_top_k=-1, every_n_train_steps=2, monitor="step", mode="max"
        )
        module = make(tiny_llama_dir)
        run = trainer(folder, max_epochs=2, callbacks=[saving], enable_checkpointing=True)
        run.fit(module, Rows(6), ckpt_path=resume, weights_only=True)
        return module

    whole = fit(tmp_path / "whole")
    again = fit(tmp_path / "again", tmp_path / "whole" / "step=2.ckpt")
    assert all(torch.equal(again.state_dict()[name], value) for name, value in whole.state_dict().items())


def test_checkpoints_with_metrics_in_their_names_are_found(tiny_llama_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    saving = RunCheckpoint(
        folder,
        "{step}-{val/loss:.3f}",
        save_top_k=2,
        save_last=True,
        every_n_train_steps=2,
        monitor="val/loss",
    )
    run = trainer(tmp_path, max_steps=6, val_check_interval=2, callbacks=[saving], enable_checkpointing=True)
    run.fit(make(tiny_llama_dir), loader(batches(6)), loader(batches(1)))
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.ckpt"))
    assert len(names) == 3
    assert all(name == "last.ckpt" or "-val_loss=" in name for name in names)
    scores = {path: float(score) for path, score in saving.best_k_models.items()}
    for path, score in scores.items():
        assert f"val_loss={score:.3f}" in path
    assert find_checkpoint("best", tmp_path) == min(scores, key=lambda path: scores[path])
    assert torch.load(find_checkpoint("last", tmp_path))["global_step"] == 6


def test_a_module_within_another_keeps_its_state(tiny_llama_dir: Path) -> None:
    module = make(tiny_llama_dir)
    module.configure_model()
    outer = torch.nn.ModuleDict({"inner": module})
    assert outer.state_dict().keys() == {f"inner.{name}" for name in module.state_dict()}
    module.load_state_dict(module.state_dict())
    names = module.state_dict().keys()
    module.freeze()
    assert module.state_dict().keys() == names
    module.unfreeze()
    assert {name for name, p in module.named_parameters() if p.requires_grad} == names
