"""The callbacks that a module brings to its trainer, and those of the trainer's that it changes or refuses."""

from __future__ import annotations

from collections.abc import Sequence

from lightning.pytorch.callbacks import BaseFinetuning, Callback, ModelPruning

from taigi_lightning.errors import InputError
from taigi_lightning.training.averaging import AVERAGING, average_what_trains
from taigi_lightning.training.kept_directions import KeptDirections
from taigi_lightning.training.matmul_guard import MatmulGuard
from taigi_lightning.training.optimizer_modes import OptimizerModes
from taigi_lightning.training.resume import CompareSettings
from taigi_lightning.training.step_metrics import StepMetrics


def module_callbacks(there: list[Callback]) -> list[Callback]:
    """What compares settings on resume, logs each step, has optimizers show the weights to use, watches 8 bits
    and keeps what they were split along.

    Args:
        there: the trainer's callbacks; averaging ones are replaced by such as average what trains.

    Raises:
        InputError: one of them cannot do here what it is for.
    """
    average_what_trains(there)
    check_callbacks(there)
    kinds = (CompareSettings, StepMetrics, OptimizerModes, MatmulGuard, KeptDirections)
    return [kind() for kind in kinds if not any(type(callback) is kind for callback in there)]


def check_callbacks(callbacks: Sequence[Callback]) -> None:
    """Refuse callbacks that change weights which do not train here, or would average nothing.

    Raises:
        InputError: ModelPruning, BaseFinetuning, or an averaging callback that `average_what_trains` has not seen.
    """
    for callback in callbacks:
        name = type(callback).__name__
        if isinstance(callback, ModelPruning | BaseFinetuning):
            raise InputError(
                f"{name} prunes, freezes or thaws layers of the model, and here the base stays as it is, mostly in 4 "
                "bits, and only an adapter trains. Leave it out; model.lora.target_modules says what trains."
            )
        if isinstance(callback, AVERAGING) and not hasattr(callback, "trained_weights"):
            raise InputError(
                f"{name} would average nothing: the module's configure_callbacks is overridden, which shows it what "
                "trains. Return [*super().configure_callbacks(), ...] there."
            )
