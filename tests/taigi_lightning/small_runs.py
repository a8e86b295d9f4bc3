"""Small runs of the module under a real Trainer, as several tests want them: data, module, trainer, state."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from taigi_lightning.data.dataloader import EpochBatches, ResumableLoader
from taigi_lightning.data.packing import Blocks, separate_documents
from taigi_lightning.model.adapters import LoraSettings
from taigi_lightning.training.module import CausalLMModule

State = dict[str, Tensor]
Batch = dict[str, Tensor]


def batches(count: int, rows: int = 2, length: int = 24, seed: int = 0) -> list[Batch]:
    """Micro-batches whose numbers of supervised tokens differ a lot."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for number in range(count):
        ids = torch.randint(4, 300, (rows, length), generator=generator)
        labels = ids.clone()
        labels[:, : 2 + 5 * (number % 4)] = -100
        made.append(
            {"input_ids": ids, "labels": labels, "position_ids": torch.arange(length).expand(rows, length)}
        )
    return made


def loader(data: list[Batch], accumulate: int = 1) -> DataLoader[Batch]:
    """Micro-batches that say how many supervised tokens their window has."""
    for first in range(0, len(data), accumulate):
        window = data[first : first + accumulate]
        tokens = sum(int((batch["labels"][:, 1:] != -100).sum()) for batch in window)
        for batch in window:
            batch["window_tokens"] = tokens  # type: ignore[assignment]
    return DataLoader(data, batch_size=None)  # type: ignore[arg-type]


def blocks() -> Blocks:
    """16 rows of 24 tokens whose numbers of supervised tokens differ a lot."""
    tokens = np.random.default_rng(0).integers(4, 300, 16 * 24).astype(np.int32)
    labels = tokens.copy().reshape(16, 24)
    for row in range(16):
        labels[row, : 2 + 5 * (row % 4)] = -100
    return Blocks(tokens, labels.ravel(), separate_documents(np.full(16, 24), 24), pad_id=3)


class Rows(pl.LightningDataModule):
    """The rows in batches of a size, with the counts of their windows."""

    def __init__(self, batch_size: int) -> None:
        super().__init__()
        self.batch_size = batch_size

    def train_dataloader(self) -> ResumableLoader:
        fit: Any = self.trainer
        sampler = EpochBatches(16, self.batch_size, seed=1)
        windows = lambda: (fit.accumulate_grad_batches, fit.num_training_batches)  # noqa: E731
        return ResumableLoader(blocks(), sampler, windows=windows)


class Resumable:
    """Micro-batches in a fixed order, which Lightning can continue in the middle of."""

    def __init__(self, data: list[Batch]) -> None:
        self.data, self.position = data, 0

    def __len__(self) -> int:
        return len(self.data)

    def __iter__(self) -> Iterator[Batch]:
        start, self.position = self.position, 0
        for number in range(start, len(self.data)):
            self.position = number + 1
            yield self.data[number]

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = state["position"]


def make(base: Path, kind: type[CausalLMModule] = CausalLMModule, **options: Any) -> CausalLMModule:
    """A module whose every run is the same."""
    pl.seed_everything(9527)
    settings: dict[str, Any] = {
        "lora": LoraSettings(r=4, lora_alpha=8, lora_dropout=0.1),
        "optimizer": lambda parameters: torch.optim.AdamW(parameters, lr=1e-2),
        "lr_scheduler": "constant_with_warmup",
    }
    return kind(str(base), **(settings | options))


def trainer(folder: Path, **options: Any) -> pl.Trainer:
    defaults: dict[str, Any] = {
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "log_every_n_steps": 1,
    }
    return pl.Trainer(default_root_dir=folder, **(defaults | options))


def copied(module: pl.LightningModule) -> State:
    """What a module has trained."""
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(found: State, wanted: State) -> bool:
    """Whether two modules have trained the same, to the last bit."""
    return found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)
