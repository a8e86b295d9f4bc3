"""Tokens per second count training alone, on a clock that moves when the test says so."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pandas as pd
import pytest
from lightning.pytorch.callbacks import ModelCheckpoint

from taigi_lightning.data.cpt import CPTDataModule
from taigi_lightning.model.adapters import LoraSettings
from taigi_lightning.training import throughput
from taigi_lightning.training.module import CausalLMModule

TEXT = "阿明下晡欲去市仔買菜，伊毋知影按怎行。今仔日的天氣真好，咱來去海邊仔𨑨迌。"


class Clock(pl.Callback):
    """Two seconds for a micro-batch, an hour for a checkpoint or a validation."""

    def __init__(self) -> None:
        self.now = 0.0
        self.rates: list[float] = []

    def perf_counter(self) -> float:
        return self.now

    def on_before_backward(self, *_: Any) -> None:
        self.now += 2

    def on_save_checkpoint(self, *_: Any) -> None:
        self.now += 3600

    def on_validation_epoch_start(self, *_: Any) -> None:
        self.now += 3600

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if "train/tokens_per_second" in trainer.callback_metrics:
            self.rates.append(float(trainer.callback_metrics["train/tokens_per_second"]))


@pytest.mark.parametrize("checkpoints_first", [True, False])
def test_checkpoints_and_validation_do_not_count(
    tiny_llama_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpoints_first: bool
) -> None:
    clock = Clock()
    monkeypatch.setattr(throughput, "time", clock)
    rows = pd.DataFrame({"text": [f"{TEXT}{n}" for n in range(30)]})
    rows[:20].to_parquet(tmp_path / "train-00000-of-00001.parquet")
    rows[20:].to_parquet(tmp_path / "validation-00000-of-00001.parquet")
    module = CausalLMModule(str(tiny_llama_dir), lora=LoraSettings(r=2), activation_budget=1.0)
    data = CPTDataModule(str(tmp_path), str(tiny_llama_dir), batch_size=2, max_length=64)
    trainer = pl.Trainer(
        default_root_dir=tmp_path, accelerator="cpu", max_steps=8, accumulate_grad_batches=2, logger=False,
        enable_progress_bar=False, enable_model_summary=False, check_val_every_n_epoch=None,
        val_check_interval=5, use_distributed_sampler=False, num_sanity_val_steps=0,
        callbacks=[ModelCheckpoint(every_n_train_steps=1, save_top_k=-1)],
    )  # fmt: skip
    measure = [throughput.Throughput(), clock]
    found: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    trainer.callbacks = [*found, *measure] if checkpoints_first else [*measure, *found]  # type: ignore[attr-defined]
    trainer.fit(module, data)
    assert len(clock.rates) > 8
    # Two rows of 64 tokens in two seconds; the loader's wait is read from a true clock.
    assert clock.rates == pytest.approx([64] * len(clock.rates), rel=0.01)
