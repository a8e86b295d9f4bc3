"""What a resumed run does with settings that are not its checkpoint's: all are compared, none is passed over."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import (
    Callback,
    GradientAccumulationScheduler,
    LearningRateFinder,
    WeightAveraging,
)
from lightning.pytorch.trainer.states import TrainerFn

from taigi_lightning.errors import InputError
from taigi_lightning.internals import restore_loaders, rewind_to_step, run_seed
from taigi_lightning.training.lr_schedule import adopt_found_rate, configured_rates, resume_rates

Settings = dict[str, Any]  # plain values by the option's name

# The function that the checkpoint's weights belong to, or an optimizer's state that fits no other.
REFUSED = {
    "model.lora.r": "its weights have another shape",
    "model.lora.lora_alpha": "the adapter's output would jump by the ratio",
    "model.lora.target_modules": "its weights belong to other layers",
    "model.quantization": "its weights were trained on other base weights",
    "model.from_scratch": "its weights are others",
    "model.optimizer": "the state of the one means nothing to the other",
}
# Where a run computes and what it reads from where: no influence on what is learned.
NEUTRAL = (
    "model.base", "model.adapter", "model.compile", "model.activation_budget", "model.answer_strategy",
    "model.weights_on_host", "model.packed_cache",
    "data.data_dir", "data.train_file", "data.validation_file", "data.tokenizer", "data.num_workers",
    "data.cache_dir",
)  # fmt: skip
TRAINER = (
    "max_steps",
    "max_epochs",
    "accumulate_grad_batches",
    "gradient_clip_val",
    "precision",
    "world_size",
)


def collect_settings(trainer: pl.Trainer, module: pl.LightningModule) -> Settings:
    """What decides what a run learns, apart from the optimizer (see `optimizer_settings`)."""
    found = _constructor_settings(module, "model") | _constructor_settings(
        getattr(trainer, "datamodule", None), "data"
    )
    for name in TRAINER:
        found[f"trainer.{name}"] = plain(getattr(trainer, name))
    return found | {"seed_everything": run_seed()}


def _constructor_settings(owner: Any, prefix: str) -> Settings:
    """The values of a constructor's arguments that its object kept under their names."""
    found: Settings = {}
    for name in inspect.signature(type(owner).__init__).parameters if owner is not None else ():
        value = getattr(owner, name, None)
        if name == "self" or f"{prefix}.{name}" in NEUTRAL or callable(value):
            continue
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = dataclasses.asdict(value).items()
            found |= {f"{prefix}.{name}.{field}": plain(setting) for field, setting in fields}
        else:
            found[f"{prefix}.{name}"] = plain(value)
    return found


def optimizer_settings(optimizer: torch.optim.Optimizer) -> Settings:
    """An optimizer's class, and every setting of each of its parameter groups."""
    kind = type(optimizer)
    found: Settings = {"model.optimizer": f"{kind.__module__}.{kind.__qualname__}"}
    for name, (group, key) in _group_keys(optimizer).items():
        found[name] = plain(optimizer.param_groups[group][key])
    return found


def _group_keys(optimizer: torch.optim.Optimizer) -> dict[str, tuple[int, str]]:
    """The parameter groups' settings by their name in words; rates are left to `resume_rates`."""
    several = len(optimizer.param_groups) > 1
    return {
        f"model.optimizer.{f'group {number}.' if several else ''}{key}": (number, key)
        for number, group in enumerate(optimizer.param_groups)
        for key in group
        if key not in ("params", "lr", "initial_lr")
    }


def plain(value: Any) -> Any:
    """A value as JSON has it, so that a checkpoint with it loads without pickle."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        items = [plain(item) for item in value]
        return sorted(items, key=str) if isinstance(value, set | frozenset) else items
    if value is None or type(value) in (bool, int, float, str):
        return value
    for kind in (int, float, str):
        if isinstance(value, kind):  # the command line's own kinds of number
            return kind(value)
    return str(value)


def plain_arguments(arguments: Mapping[str, Any]) -> Settings:
    """A constructor's arguments, from its `locals()`, as plain values; a file could not hold its callables."""
    named = {
        name: dataclasses.asdict(value)
        if dataclasses.is_dataclass(value) and not isinstance(value, type)
        else value
        for name, value in arguments.items()
        if name not in ("self", "__class__") and not callable(value)
    }
    return {name: plain(value) for name, value in named.items()}


def check_settings(then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse settings with which the checkpoint's weights would be another function.

    Raises:
        InputError: one of `REFUSED` differs.
    """
    for name, reason in REFUSED.items():
        if name in then and name in now and then[name] != now[name]:
            raise InputError(
                f"{name} is {now[name]}, and the checkpoint was trained with {then[name]}: {reason}. Resume with "
                f"{then[name]}, or begin a new run."
            )


def changed_settings(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """A sentence for every setting that is not the checkpoint's and is used all the same."""
    for name in sorted(then.keys() | now.keys()):
        if name not in REFUSED and then.get(name) != now.get(name):
            found, wanted = then.get(name, "not set"), now.get(name, "not set")
            yield f"{name}: {found} in the checkpoint, {wanted} in this run; using {wanted}."


def adopt_optimizer_settings(optimizer: torch.optim.Optimizer, wanted: Mapping[str, Any]) -> None:
    """Let settings of the parameter groups win over those that a checkpoint restored."""
    for name, (group, key) in _group_keys(optimizer).items():
        if name in wanted:
            now = wanted[name]
            optimizer.param_groups[group][key] = tuple(now) if isinstance(now, list) else now


class CompareSettings(Callback):
    """Keep a run's settings in its checkpoints; on resume compare all of them, refuse, adopt, and say so.

    `CausalLMModule.configure_callbacks` brings it, so that it works with any trainer and under a subclass's hooks.
    """

    def __init__(self) -> None:
        self._forget()

    def _forget(self) -> None:
        self.settings: Settings = {}
        self._rates: list[float] = []
        self._then: Settings | None = None
        self._rates_then: list[float] | None = None
        self._resumed = False

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Begin anew: a trainer may fit several times."""
        self._forget()

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Refuse what would be another function, and say where an average becomes the weights to train.

        Raises:
            InputError: a setting of `REFUSED` differs.
        """
        # One that was saved before the run began is the trainer's own, around a search of rate or batch size.
        if trainer.state.fn != TrainerFn.FITTING or checkpoint.get("settings", ...) == {}:
            return
        self._resumed, self._then = True, checkpoint.get("settings")
        self._rates_then = checkpoint.get("rates")
        check_settings(self._then or {}, collect_settings(trainer, pl_module))
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        if "averaging_state" in checkpoint and not any(isinstance(c, WeightAveraging) for c in callbacks):
            pl_module.print(
                "The checkpoint's weights are an average, and no callback averages in this run: it goes on from the "
                "average."
            )

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take down this run's settings, before a checkpoint's replace the optimizer's.

        Raises:
            InputError: the checkpoint's optimizer is of another class.
        """
        self.settings = collect_settings(trainer, pl_module)
        for optimizer in trainer.optimizers:
            self.settings |= optimizer_settings(optimizer)
            self._rates = configured_rates(optimizer)
        check_settings(self._then or {}, self.settings)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let this run's settings win, and say which; let a rate that was searched just now count.

        The place in the epoch, and what goes by its number, are put right where Lightning leaves them.
        """
        schedules = [config.scheduler for config in trainer.lr_scheduler_configs]
        if not self._resumed:
            rate = _found_rate(trainer)
            if rate is not None:
                for sentence in adopt_found_rate(trainer.optimizers[0], schedules, rate):
                    pl_module.print(sentence)
            return
        restore_loaders(trainer)
        optimizer = trainer.optimizers[0]
        if self._then is None:
            pl_module.print(
                "The checkpoint is of a version that kept no settings: only weights, base and rates are compared."
            )
            changed = {f"model.optimizer.{name}" for name in optimizer.defaults}
        else:
            for sentence in changed_settings(self._then, self.settings):
                pl_module.print(sentence)
            changed = {name for name, value in self.settings.items() if self._then.get(name) != value}
        adopt_optimizer_settings(
            optimizer, {name: self.settings[name] for name in changed & self.settings.keys()}
        )
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, GradientAccumulationScheduler):  # told of an epoch only when it begins
                callback.on_train_epoch_start(trainer)
        for sentence in resume_rates(optimizer, schedules, self._rates, self._rates_then):
            pl_module.print(sentence)
        self._resumed = False

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Put the settings into a checkpoint, and let it stand between two optimizer steps."""
        checkpoint["settings"], checkpoint["rates"] = self.settings, self._rates
        rewind_to_step(trainer, checkpoint)


def _found_rate(trainer: pl.Trainer) -> float | None:
    """What a LearningRateFinder has found at the start of this run."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    searches = [c.optimal_lr for c in callbacks if isinstance(c, LearningRateFinder)]
    return next((search.suggestion() for search in searches if search is not None), None)
