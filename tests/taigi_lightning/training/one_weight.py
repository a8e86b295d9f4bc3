"""A model that says how many steps it was trained, for tests of what is saved when."""

from collections.abc import Callable

import lightning.pytorch as pl
import torch
from torch import Tensor


class OneWeight(pl.LightningModule):
    """A model of one weight, which each step on batches of ones takes down by 1.

    Args:
        loss_at: what validation finds after so many steps, and with the other sign as an accuracy.
    """

    def __init__(self, loss_at: Callable[[int], float]) -> None:
        super().__init__()
        self.weight, self.loss_at = torch.nn.Parameter(torch.zeros(())), loss_at

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.weight * batch.sum()

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        loss = torch.tensor(self.loss_at(self.global_step))
        self.log("val/loss", loss)
        self.log("val/accuracy", -loss)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1.0)
