"""The learning rate's schedule, and the rates of a run that goes on from a checkpoint."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from lightning.pytorch.cli import LRSchedulerCallable
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau
from transformers import get_scheduler

from taigi_lightning.errors import InputError

logger = logging.getLogger(__name__)

ScheduleName = Literal["linear", "cosine", "constant_with_warmup"]


def configure_schedule(
    kind: ScheduleName | LRSchedulerCallable,
    optimizer: torch.optim.Optimizer,
    warmup_steps: float,
    steps: float,
) -> Any:
    """What `configure_optimizers` returns as its `lr_scheduler`.

    Args:
        kind: one of three names, or what makes a schedule of torch's from an optimizer. ReduceLROnPlateau follows its
            `monitor` (`lightning.pytorch.cli.ReduceLROnPlateau` has one), else val/loss: see `step_schedule`.
        optimizer: whose rates it sets.
        warmup_steps: optimizer steps over which a named schedule rises from zero; below 1, their share of the run's.
        steps: optimizer steps of the run; infinite where only time ends it, below 0 where data have no length.

    Raises:
        InputError: a named schedule needs an end, and the run has none.
    """
    if not isinstance(kind, str):
        made: Any = kind(optimizer)
        if not isinstance(made, ReduceLROnPlateau):
            return {"scheduler": made, "interval": "step"}
        plateau: Any = made
        plateau.monitor = getattr(made, "monitor", "val/loss")
        plateau.asked_every_step = True
        # Lightning asks at every step, and warns while nothing is measured yet.
        warnings.filterwarnings("ignore", "ReduceLROnPlateau conditioned on metric")
        return {"scheduler": plateau, "interval": "step", "monitor": plateau.monitor, "strict": False}
    if steps < 0:
        steps = float("inf")
    if steps == float("inf") and 0 < warmup_steps < 1:
        raise InputError(
            f"model.warmup_steps is {warmup_steps}, a share of the run's steps, and neither max_steps nor, where "
            "data have a length, max_epochs says how many it has. Set one, or give a number of steps."
        )
    if steps == float("inf") and kind != "constant_with_warmup":
        raise InputError(
            f"model.lr_scheduler {kind} needs to know where the run ends, and neither max_steps nor, where data have a "
            "length, max_epochs says so. Set one, or --model.lr_scheduler constant_with_warmup."
        )
    end = 0 if steps == float("inf") else int(steps)
    rising = math.ceil(warmup_steps * end) if 0 < warmup_steps < 1 else int(warmup_steps)
    if 0 < end <= rising:
        logger.warning(
            "model.warmup_steps is %d and the run has %d steps: it ends while the learning rate still rises, at "
            "%.0f %% of its highest. Lower warmup_steps, or give it as a share of the run, such as 0.05.",
            rising, end, 100 * (end - 1) / rising,
        )  # fmt: skip
    return {"scheduler": get_scheduler(kind, optimizer, rising, end), "interval": "step"}


def step_schedule(schedule: Any, metric: Any, validated: bool) -> bool:
    """Let a schedule go on by a step.

    A ReduceLROnPlateau of `configure_schedule` whose monitor is of training, by its name, counts optimizer steps; any
    other counts validations, of which a run may have several an epoch, or one in several epochs. A schedule of a
    `configure_optimizers` of the user's own goes on whenever Lightning says.

    Args:
        schedule: torch's.
        metric: the newest value of what it monitors, if it does.
        validated: whether a validation was made since its last step.

    Returns:
        whether it took a step.

    Raises:
        InputError: the schedule has come to its end before the run.
    """
    waits = getattr(schedule, "asked_every_step", False) and not schedule.monitor.startswith("train/")
    if waits and not validated:
        return False
    try:
        schedule.step(*() if metric is None else (metric,))
    except ValueError as error:
        raise InputError(
            f"The schedule {type(schedule).__name__} under model.lr_scheduler has no learning rate for the next step "
            f"({str(error).rstrip('.')}). Give it as many steps as the run has."
        ) from error
    return True  # so that the next one waits for the next validation


def check_monitor(schedule: Any, validates: bool) -> None:
    """Refuse a schedule that would wait for what is never measured.

    Raises:
        InputError: it follows a validation's figure, and nothing is validated.
    """
    monitor = str(getattr(schedule, "monitor", "train/"))
    if isinstance(schedule, ReduceLROnPlateau) and not validates and not monitor.startswith("train/"):
        raise InputError(
            f"model.lr_scheduler ReduceLROnPlateau follows {monitor}, and nothing is held out to validate on, so that "
            "the learning rate would never fall. Hold something out, or give it the monitor train/loss."
        )


def configured_rates(optimizer: torch.optim.Optimizer) -> list[float]:
    """Each parameter group's learning rate as the config has it, before a checkpoint is restored."""
    return [float(group.get("initial_lr", group["lr"])) for group in optimizer.param_groups]


def scale_rates(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give the first parameter group a learning rate, and the others theirs in the same proportion."""
    first = optimizer.param_groups[0]["lr"]
    for group in optimizer.param_groups:
        group["lr"] = _moved(group["lr"], first, rate)


def adopt_found_rate(
    optimizer: torch.optim.Optimizer, schedules: Sequence[Any], rate: float
) -> Iterator[str]:
    """Let a run that has searched its learning rate follow its schedule from the rate that was found.

    Lightning's LearningRateFinder sets all groups to the found rate, for a single step: the schedule then goes on from
    the configured ones.

    Args:
        optimizer: of the run, at its start.
        schedules: of its rates.
        rate: the first group's, where a schedule's factor is 1.

    Yields:
        a sentence, where the rate cannot count.
    """
    for schedule in schedules:
        rates = schedule.get_last_lr()
        sets_its_own = "max_lr" in optimizer.param_groups[0]
        first = optimizer.param_groups[0].get("initial_lr", rates[0])
        for position, group in enumerate(optimizer.param_groups):
            group["lr"] = rates[position]
            if not sets_its_own:
                _move(group, schedules, position, first, rate)
        if sets_its_own:
            name = type(schedule).__name__
            yield f"{name} names its own learning rates: that which was found, {rate:g}, is not used."


def _move(
    group: dict[str, Any], schedules: Sequence[Any], position: int, found: float, wanted: float
) -> None:
    """Move a group's rate, and what its schedules start from, as from `found` to `wanted`."""
    for key in group.keys() & {"lr", "initial_lr"}:
        group[key] = _moved(group[key], found, wanted)
    for schedule in schedules:
        if hasattr(schedule, "base_lrs"):
            schedule.base_lrs[position] = _moved(schedule.base_lrs[position], found, wanted)


def _moved(rate: float, found: float, wanted: float) -> float:
    if rate == found:
        return wanted  # to the last bit
    return rate * wanted / found if found else rate


def resume_rates(
    optimizer: torch.optim.Optimizer,
    schedules: Sequence[Any],
    configured: Sequence[float],
    then: Sequence[float] | None = None,
) -> Iterator[str]:
    """Let the config's learning rates and schedule win over those that a checkpoint restored.

    A schedule of one of our three names is followed anew from the config. Any other goes on where the checkpoint
    stood, its rates scaled where the config's rate changed.

    Args:
        optimizer: after its state was restored.
        schedules: of its rates, after their state was restored.
        configured: `configured_rates` before.
        then: those of the run that wrote the checkpoint; None: what its schedule started from.

    Yields:
        a sentence for each change.
    """
    then = then or configured_rates(optimizer)
    for position, group in enumerate(optimizer.param_groups):
        found, wanted = then[position], configured[position]
        if found == wanted:
            continue
        _move(group, schedules, position, found, wanted)
        yield f"Learning rate: {found:g} in the checkpoint, {wanted:g} in the config; using {wanted:g}."
    for schedule in schedules:
        if isinstance(schedule, LambdaLR):
            yield from _follow_schedule(schedule)


def _follow_schedule(schedule: LambdaLR) -> Iterator[str]:
    """Set the learning rates of the coming step to this run's, where a checkpoint restored another schedule's.

    A schedule computes a rate only after a step, and the optimizer brings the first one from the checkpoint: of a
    run that was to end there, for one, it is the rate of its end, mostly 0.
    """
    groups = zip(schedule.optimizer.param_groups, schedule.base_lrs, schedule.lr_lambdas, strict=True)
    for group, base, factor in groups:
        found, wanted = group["lr"], base * factor(schedule.last_epoch)  # as LambdaLR does, to the last bit
        group["lr"] = wanted
        if not math.isclose(found, wanted):
            yield (
                f"Learning rate of the next step: {found:g} by the checkpoint's schedule, {wanted:g} by this "
                f"config's; using {wanted:g}."
            )
