"""The learning rate's schedule, and the rates of a run that goes on from a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from lightning.pytorch.cli import LRSchedulerCallable
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau
from transformers import get_scheduler

from taigi_lightning.errors import InputError

ScheduleName = Literal["linear", "cosine", "constant_with_warmup"]


def configure_schedule(
    kind: ScheduleName | LRSchedulerCallable,
    optimizer: torch.optim.Optimizer,
    warmup_steps: int,
    steps: float,
) -> Any:
    """What `configure_optimizers` returns as its `lr_scheduler`.

    Args:
        kind: one of three names, or what makes a schedule of torch's from an optimizer. ReduceLROnPlateau steps at an
            epoch's end, by its `monitor` (`lightning.pytorch.cli.ReduceLROnPlateau` has one), else by val/loss.
        optimizer: whose rates it sets.
        warmup_steps: optimizer steps over which a named schedule rises from zero.
        steps: optimizer steps of the run; infinite where only time ends it.

    Raises:
        InputError: a named schedule needs an end, and the run has none.
    """
    if not isinstance(kind, str):
        made: Any = kind(optimizer)
        if not isinstance(made, ReduceLROnPlateau):
            return {"scheduler": made, "interval": "step"}
        monitor = getattr(made, "monitor", "val/loss")
        return {"scheduler": made, "interval": "epoch", "monitor": monitor, "strict": False}
    if steps == float("inf") and kind != "constant_with_warmup":
        raise InputError(
            f"model.lr_scheduler {kind} needs to know where the run ends, and neither max_steps nor max_epochs says "
            "so. Set one, or --model.lr_scheduler constant_with_warmup."
        )
    end = 0 if steps == float("inf") else int(steps)
    return {"scheduler": get_scheduler(kind, optimizer, warmup_steps, end), "interval": "step"}


def configured_rates(optimizer: torch.optim.Optimizer) -> list[float]:
    """Each parameter group's learning rate as the config has it, before a checkpoint is restored."""
    return [float(group.get("initial_lr", group["lr"])) for group in optimizer.param_groups]


def resume_rates(
    optimizer: torch.optim.Optimizer, schedules: Sequence[Any], configured: Sequence[float]
) -> Iterator[str]:
    """Let the config's learning rates and schedule win over those that a checkpoint restored.

    A schedule of one of our three names is followed anew from the config. Any other goes on where the checkpoint
    stood, its rates scaled where the config's rate changed.

    Args:
        optimizer: after its state was restored.
        schedules: of its rates, after their state was restored.
        configured: `configured_rates` before.

    Yields:
        a sentence for each change.
    """
    for position, (group, wanted) in enumerate(zip(optimizer.param_groups, configured, strict=True)):
        found = float(group.get("initial_lr", group["lr"]))
        if found == wanted:
            continue
        group["lr"] *= wanted / found if found else 1.0
        if "initial_lr" in group:
            group["initial_lr"] = wanted
        for schedule in schedules:
            if hasattr(schedule, "base_lrs"):
                schedule.base_lrs[position] = wanted
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
