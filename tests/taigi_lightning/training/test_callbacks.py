"""An interrupted run ends as the unbroken one, whichever step the interruption came at."""

import os
import signal
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pandas as pd
import pytest
import torch
from torch import Tensor

from taigi_lightning.data.cpt import CPTDataModule
from taigi_lightning.model.adapters import LoraSettings
from taigi_lightning.signals import StoppedBySignal
from taigi_lightning.training.callbacks import SaveOnSignal
from taigi_lightning.training.checkpoints import newest_checkpoint
from taigi_lightning.training.module import CausalLMModule

STEPS = 8
TEXT = "阿明下晡欲去市仔買菜，伊毋知影按怎行。今仔日的天氣真好，咱來去海邊仔𨑨迌。"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Documents enough for an epoch of ten micro-batches, that is of five optimizer steps."""
    folder = tmp_path_factory.mktemp("corpus")
    rows = pd.DataFrame({"text": [f"{TEXT}{n}" for n in range(30)]})
    rows[:20].to_parquet(folder / "train-00000-of-00001.parquet")
    rows[20:].to_parquet(folder / "validation-00000-of-00001.parquet")
    return folder


class Interrupt(pl.Callback):
    """Sends this process a signal in the middle of a micro-batch."""

    def __init__(self, number: int, batch: int) -> None:
        self.number, self.batch = number, batch

    def on_before_backward(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.fit_loop.total_batch_idx == self.batch:
            os.kill(os.getpid(), self.number)


def train(
    base: Path, corpus: Path, folder: Path, *callbacks: pl.Callback, resume: bool = False
) -> dict[str, Tensor]:
    pl.seed_everything(9527)
    module = CausalLMModule(
        str(base),
        lora=LoraSettings(r=2, lora_alpha=4, lora_dropout=0.1),
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=1e-2),
        activation_budget=1.0,
    )
    data = CPTDataModule(str(corpus), str(base), batch_size=2, max_length=64)
    trainer = pl.Trainer(
        default_root_dir=folder, accelerator="cpu", max_steps=STEPS, accumulate_grad_batches=2, logger=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
        check_val_every_n_epoch=None, val_check_interval=6, use_distributed_sampler=False,
        callbacks=[SaveOnSignal(), *callbacks],
    )  # fmt: skip
    trainer.fit(module, data, ckpt_path=newest_checkpoint(folder).path if resume else None)
    return {name: value.clone() for name, value in module.state_dict().items()}


@pytest.fixture(scope="module")
def unbroken(
    tiny_llama_dir: Path, corpus: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Tensor]:
    return train(tiny_llama_dir, corpus, tmp_path_factory.mktemp("unbroken"))


@pytest.mark.posix("signals to a process, which end it at once on Windows")
@pytest.mark.parametrize("batch", [0, 5, 8, 9, 11])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_at_any_micro_batch(
    tiny_llama_dir: Path, corpus: Path, unbroken: dict[str, Tensor], tmp_path: Path, batch: int, number: int
) -> None:
    with pytest.raises(StoppedBySignal) as stopped:
        train(tiny_llama_dir, corpus, tmp_path, Interrupt(number, batch))
    assert stopped.value.code == 128 + number
    # The window of two micro-batches is finished first.
    assert newest_checkpoint(tmp_path).path.name == f"interrupted-step={batch // 2 + 1}.ckpt"
    resumed = train(tiny_llama_dir, corpus, tmp_path, resume=True)
    assert resumed.keys() == unbroken.keys()
    assert all(torch.equal(resumed[name], unbroken[name]) for name in unbroken)


def test_the_signals_are_given_back(tiny_llama_dir: Path, corpus: Path, tmp_path: Path) -> None:
    train(tiny_llama_dir, corpus, tmp_path)
    for number in (signal.SIGINT, signal.SIGTERM):
        assert "SaveOnSignal" not in repr(signal.getsignal(number))
