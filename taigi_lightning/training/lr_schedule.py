"""The learning rates of a run that goes on from a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR


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
