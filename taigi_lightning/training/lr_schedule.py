"""The learning rate of a run that goes on from a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any


def resume_schedule(schedule: Any) -> Iterator[str]:
    """Let the config's learning rate and course win over those that a checkpoint restored.

    Args:
        schedule: a torch LambdaLR, after its state was restored.

    Yields:
        a sentence for each change.
    """
    for found, wanted in adopt_rate(schedule):
        yield f"Learning rate: {found:g} in the checkpoint, {wanted:g} in the config; using {wanted:g}."
    for found, wanted in follow_course(schedule):
        yield (
            f"Learning rate of the next step: {found:g} by the checkpoint's schedule, {wanted:g} by this config's; "
            f"using {wanted:g}."
        )


def adopt_rate(schedule: Any) -> Iterator[tuple[float, float]]:
    """Let the optimizer's own learning rate win over the one that a checkpoint restored.

    Args:
        schedule: a torch learning-rate scheduler, after its state was restored.

    Yields:
        the checkpoint's rate and the one now in use, for each parameter group where they differ.
    """
    optimizer = schedule.optimizer
    wanted = optimizer.defaults["lr"]
    for position, group in enumerate(optimizer.param_groups):
        found = group["initial_lr"]
        if found == wanted:
            continue
        group["lr"] *= wanted / found
        group["initial_lr"] = wanted
        schedule.base_lrs[position] = wanted
        yield found, wanted


def follow_course(schedule: Any) -> Iterator[tuple[float, float]]:
    """Set the learning rates of the coming step to this run's, where a checkpoint restored another course's.

    A schedule computes a rate only after a step, and the optimizer brings the first one from the checkpoint: of a
    run that was to end there, for one, it is the rate of its end, mostly 0.

    Args:
        schedule: a torch LambdaLR, after its state was restored.

    Yields:
        the checkpoint's rate and the one now in use, for each parameter group where they differ.
    """
    groups = zip(schedule.optimizer.param_groups, schedule.base_lrs, schedule.lr_lambdas, strict=True)
    for group, base, factor in groups:
        found, wanted = group["lr"], base * factor(schedule.last_epoch)  # as LambdaLR does, to the last bit
        group["lr"] = wanted
        if not math.isclose(found, wanted):
            yield found, wanted
