"""Lightning's callbacks that average weights, over those that train: the frozen base is neither copied nor averaged."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback, StochasticWeightAveraging, WeightAveraging
from torch import nn

AVERAGING = (StochasticWeightAveraging, WeightAveraging)
# What they do with the average, which before the first update is a copy of the weights that training began with.
USES_OF_THE_AVERAGE = (
    "on_validation_epoch_start",
    "on_validation_epoch_end",
    "on_save_checkpoint",
    "on_train_end",
)


class TrainedWeights(pl.LightningModule):
    """A module of another's trainable parameters alone: the very same tensors under their names.

    Lightning's averaging callbacks copy a module, walk over the parameters of module and copy side by side, and save
    and load both: given this one, they do so for what trains.
    """

    def __init__(self, module: pl.LightningModule) -> None:
        super().__init__()
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                *path, last = name.split(".")
                place: nn.Module = self
                for part in path:
                    if part not in dict(place.named_children()):
                        place.add_module(part, nn.Module())
                    place = place.get_submodule(part)
                place.register_parameter(last, parameter)
        self.to(module.device)


def average_what_trains(callbacks: list[Callback]) -> None:
    """Let averaging callbacks, Lightning's or derived from them, average what trains.

    Args:
        callbacks: the trainer's. An averaging one is replaced by one of a class derived from its own that shares its
            attributes: what the user holds shows the same average.
    """
    for position, callback in enumerate(callbacks):
        if isinstance(callback, AVERAGING) and not hasattr(callback, "trained_weights"):
            narrowed = object.__new__(_narrowed(type(callback)))
            callback.trained_weights = None  # type: ignore[union-attr]
            narrowed.__dict__ = callback.__dict__
            callbacks[position] = narrowed


def _narrowed(kind: type[Any]) -> type[Any]:
    """A class derived from a callback's whose hooks are given `TrainedWeights` in place of the module."""

    def setup(self: Any, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        if stage == "fit":
            pl_module.configure_model()  # they copy before Lightning has it made
        self.trained_weights = TrainedWeights(pl_module)
        kind.setup(self, trainer, self.trained_weights, stage)

    def on_train_start(self: Any, trainer: pl.Trainer, pl_module: Any) -> None:
        kind.on_train_start(self, trainer, self.trained_weights)
        if trainer.ckpt_path and issubclass(kind, StochasticWeightAveraging):
            # A run that goes on within an epoch, or right at its end, is not told that one begins: its schedule and
            # its average would wait for the next one.
            kind.on_train_epoch_start(self, trainer, self.trained_weights)

    hooks = [name for name in dir(Callback) if name.startswith("on_")]
    own = [name for name in hooks if getattr(kind, name) is not getattr(Callback, name)]
    members = {name: _with_trained_weights(getattr(kind, name)) for name in own}
    # The class's name is that of its state in checkpoints.
    names = {"__qualname__": kind.__qualname__, "__module__": kind.__module__}
    return type(
        kind.__name__, (kind,), {**members, **names, "setup": setup, "on_train_start": on_train_start}
    )


def _with_trained_weights(hook: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(hook)
    def narrowed(self: Any, trainer: pl.Trainer, pl_module: Any, *rest: Any, **named: Any) -> None:
        if hook.__name__ not in USES_OF_THE_AVERAGE or _has_averaged(self):
            hook(self, trainer, self.trained_weights, *rest, **named)
        elif hook.__name__ == "on_train_end":
            pl_module.print(
                f"{type(self).__name__} averaged nothing: the run ended before its first update. The weights are those "
                "of the last step."
            )

    return narrowed


def _has_averaged(callback: Any) -> bool:
    """Whether an average holds anything; else it is what training began with, and would replace what was trained."""
    average = getattr(callback, "_average_model", None)
    return bool(getattr(callback, "n_averaged", None) or getattr(average, "n_averaged", None))
