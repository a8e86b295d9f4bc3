"""The learning rate of a run that goes on from a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


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
