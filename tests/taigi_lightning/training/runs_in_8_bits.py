"""Short runs in emulated 8 bits, in a folder with a base and a corpus."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
from lightning.pytorch.callbacks import Callback

from taigi_lightning.data.cpt import CPTDataModule
from taigi_lightning.model.adapters import LoraSettings
from taigi_lightning.training import stage_model
from taigi_lightning.training.module import CausalLMModule


@pytest.fixture
def emulating(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A CPU would be refused."""
    monkeypatch.setattr(stage_model, "check_matmul", lambda *_: None)
    return home


class Stop(Callback):
    """Save the run after its second step, as if it were stopped there."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == 2:
            trainer.save_checkpoint(self.file)


def train(
    matmul: str,
    steps: int,
    *callbacks: Callback,
    rows: int = 4,
    dropout: float = 0.1,
    checkpoint: Path | None = None,
    kind: Any = CausalLMModule,
    **options: Any,
) -> pl.Trainer:
    """So many steps of micro-batches of some rows of 64 tokens, from one seed.

    Args:
        kind: `CausalLMModule`, or what makes another module of its arguments.
        options: of the trainer.
    """
    pl.seed_everything(1, verbose=False)
    module = kind("models/base", lora=LoraSettings(r=4, lora_dropout=dropout), matmul=matmul)
    data = CPTDataModule(
        "data/cpt_corpus", "models/base", batch_size=rows, max_length=64, validation_split=None
    )
    usual = {
        "accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False,
        "enable_model_summary": False,
    }  # fmt: skip
    trainer = pl.Trainer(max_steps=steps, callbacks=list(callbacks), **{**usual, **options})
    trainer.fit(module, data, ckpt_path=None if checkpoint is None else str(checkpoint), weights_only=False)
    return trainer
