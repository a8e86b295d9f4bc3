"""Features of Lightning's Trainer, and what becomes of each over our module: a row is a feature and its result."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch import callbacks as c
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins import AsyncCheckpointIO, DoublePrecision, HalfPrecision
from lightning.pytorch.profilers import AdvancedProfiler, PyTorchProfiler
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau
from torch.utils.data import DataLoader

from taigi_lightning.errors import InputError
from taigi_lightning.training.module import CausalLMModule
from tests.taigi_lightning.small_runs import State, batches, copied, loader, make, same, trainer

Options = dict[str, Any]
TWO: Options = {"max_steps": 2}


class Refused(str):
    """What the sentence says."""


class ByHand(CausalLMModule):
    """Manual optimization, as Lightning's documentation shows it."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(super().training_step(batch, batch_idx))
        optimizer.step()
        schedule: Any = self.lr_schedulers()
        schedule.step()


class OwnOptimizer(CausalLMModule):
    """Its optimizer is given all parameters, the frozen ones too."""

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


class OptimizerBefore(CausalLMModule):
    """LightningCLI with `--optimizer` makes one before there is a model, and gives it back there."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-2)
        self.configure_optimizers = lambda: ([optimizer], [])  # type: ignore[assignment,method-assign]


class TakesBatches(CausalLMModule):
    """`dataloader_iter`, with which Lightning knows no batch."""

    def training_step(self, dataloader_iter: Any) -> Any:  # type: ignore[override]
        batch, number, _ = next(dataloader_iter)
        return super().training_step(batch, number)


def rows_of(batch: Any) -> int:
    return int(batch["input_ids"].shape[0])


def as_transformers_has_them() -> Any:
    ids = torch.zeros(2, 8, dtype=torch.int64)
    return DataLoader([{"input_ids": ids, "attention_mask": ids, "labels": ids}], batch_size=None)  # type: ignore


def without_a_length() -> Any:
    class Stream(torch.utils.data.IterableDataset[Any]):
        def __iter__(self) -> Any:
            return iter(batches(2))

    return DataLoader(Stream(), batch_size=None)


@dataclass
class Feature:
    """A way to train over four micro-batches and two held-out ones.

    `result` is the number of optimizer steps, or what the refusal says; None where two steps train what they train
    without the feature, to the last bit.
    """

    options: Options = field(default_factory=dict)
    result: int | Refused | None = None
    settings: Options = field(default_factory=dict)
    kind: type[CausalLMModule] = CausalLMModule
    data: Any = None


FEATURES: dict[str, Feature] = {
    # Nothing but what is watched, written or asked changes.
    "callbacks that watch": Feature({"logger": True, "enable_progress_bar": True, "callbacks": [
        c.RichProgressBar(), c.DeviceStatsMonitor(), c.LearningRateMonitor(log_momentum=True), c.Timer("00:00:10:00"),
        c.LambdaCallback(on_fit_start=lambda *_: None), c.RichModelSummary(max_depth=-1), c.ThroughputMonitor(rows_of),
    ]}),
    "simple profiler": Feature({"profiler": "simple"}),
    "detect_anomaly, deterministic, no inference mode": Feature(
        {"detect_anomaly": True, "deterministic": True, "inference_mode": False}
    ),
    "val_check_interval 0.5": Feature({"val_check_interval": 0.5}),
    "no validation, no rehearsal of it": Feature({"limit_val_batches": 0, "num_sanity_val_steps": 0}),
    "use_distributed_sampler false": Feature({"use_distributed_sampler": False}),
    "barebones": Feature({"barebones": True}),
    "Lightning's own checkpoints, written meanwhile": Feature({
        "enable_checkpointing": True, "plugins": [AsyncCheckpointIO()],
        "callbacks": [c.ModelCheckpoint(monitor="train/loss", every_n_train_steps=1, save_last=True)],
    }),
    "manual optimization": Feature(kind=ByHand),
    "an optimizer of one's own over all parameters": Feature(kind=OwnOptimizer),
    "an optimizer made before the model": Feature(kind=OptimizerBefore),
    "a step that takes its batches itself": Feature(kind=TakesBatches),
    # How long a run is.
    "an early stop that waits for one validation": Feature(
        {"max_epochs": 2, "callbacks": [c.EarlyStopping("val/loss", patience=0, min_delta=100.0)]}, 8
    ),
    "overfit_batches": Feature({"max_steps": 3, "overfit_batches": 1}, 3),
    "limit_train_batches": Feature({"max_epochs": 2, "limit_train_batches": 0.5, "accumulate_grad_batches": 2}, 2),
    "accumulation by epoch": Feature(
        {"max_epochs": 2, "callbacks": [c.GradientAccumulationScheduler({0: 1, 1: 2})]}, 6
    ),
    "fast_dev_run": Feature({"fast_dev_run": True}, 1),
    "early stopping": Feature({"max_epochs": 2, "callbacks": [c.EarlyStopping("val/loss")]}, 8),
    "reload_dataloaders_every_n_epochs": Feature({"max_epochs": 2, "reload_dataloaders_every_n_epochs": 1}, 8),
    "clipping by value": Feature(TWO | {"gradient_clip_val": 1e-3, "gradient_clip_algorithm": "value"}, 2),
    # What would be silently wrong.
    "64 bits": Feature({"precision": 64}, Refused("computed in 32 bits at most")),
    "64 bits by plugin": Feature({"plugins": [DoublePrecision()]}, Refused("computed in 32 bits at most")),
    "16 bits": Feature({"precision": "bf16-true"}, Refused("store the adapter in 16 bits")),
    "16 bits by plugin": Feature({"plugins": [HalfPrecision("bf16-true")]}, Refused("store the adapter in 16 bits")),
    "a plateau of nothing": Feature(
        {"limit_val_batches": 0}, Refused("nothing is held out"), {"lr_scheduler": ReduceLROnPlateau}
    ),
    "a schedule too short": Feature(
        {"max_steps": 3}, Refused("as many steps"), {"lr_scheduler": lambda o: OneCycleLR(o, 1e-2, total_steps=1)}
    ),
    "data without a length": Feature(
        {"max_epochs": 1}, Refused("where the run ends"), {"lr_scheduler": "cosine"}, data=without_a_length
    ),
    "a run without an end": Feature(
        {"max_steps": -1, "max_epochs": -1}, Refused("where the run ends"), {"lr_scheduler": "cosine"}
    ),
    "FSDP2": Feature({"strategy": ModelParallelStrategy()}, Refused("divides the weights")),
    "pruning": Feature(
        {"callbacks": [c.ModelPruning("l1_unstructured", amount=0.5)]}, Refused("target_modules says what trains")
    ),
    "thawing": Feature({"callbacks": [c.BackboneFinetuning()]}, Refused("target_modules says what trains")),
    "a batch of transformers'": Feature(
        TWO, Refused("a dict of input_ids, attention_mask, labels, without position_ids"), data=as_transformers_has_them
    ),
    "a batch of ids alone": Feature(
        TWO, Refused("This one is a Tensor"), data=lambda: DataLoader(torch.zeros(4, 8), batch_size=2)  # type: ignore
    ),
    "several loaders at once": Feature(TWO, Refused("This one is a list"), data=lambda: [loader(batches(2))] * 2),
}  # fmt: skip
SLOW = {
    "advanced profiler": Feature({"profiler": AdvancedProfiler(filename="advanced")}),
    "PyTorch's profiler": Feature({"profiler": PyTorchProfiler(filename="pytorch", export_to_chrome=False)}),
}


@pytest.fixture(scope="module")
def plain(tiny_llama_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> State:
    """What two steps train without any feature."""
    module = make(tiny_llama_dir)
    trainer(tmp_path_factory.mktemp("plain"), **TWO).fit(module, loader(batches(4)), loader(batches(2)))
    assert any(value.abs().max() > 0 for name, value in module.state_dict().items() if "lora_B" in name)
    return copied(module)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [*FEATURES, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_features(tiny_llama_dir: Path, tmp_path: Path, plain: State, name: str) -> None:
    feature = (FEATURES | SLOW)[name]
    module = make(tiny_llama_dir, feature.kind, **feature.settings)
    data = feature.data() if feature.data else loader(batches(4))

    def fit() -> pl.Trainer:
        options = (TWO if feature.result is None else {}) | feature.options
        if options.get("logger"):
            options = options | {"logger": CSVLogger(tmp_path)}
        bare = options.get("barebones")
        if bare:
            run = pl.Trainer(accelerator="cpu", default_root_dir=tmp_path, **options)
        else:
            run = trainer(tmp_path, **options)
        run.fit(module, data, loader(batches(2)))
        return run

    try:
        if isinstance(feature.result, Refused):
            with pytest.raises(InputError, match=re.escape(feature.result)):
                fit()
            return
        steps = fit().global_step
        assert steps == (2 if feature.result is None else feature.result)
        assert (feature.result is not None) or same(copied(module), plain)
    finally:
        torch.use_deterministic_algorithms(False)
        torch.autograd.set_detect_anomaly(False)
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
