"""Whether a training config fits a card and its host, and by which options, or how much host memory, it would."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from taigi_lightning.planning.memory import GIB, Shape
from taigi_lightning.planning.needs import Needs
from taigi_lightning.planning.settings import Settings
from taigi_lightning.planning.step_time import ASSUMED, Machine
from taigi_lightning.planning.training_needs import host_budget, margin, needs

LARGEST_HOST = 256  # GiB: more than a machine with such a card has


def usable(settings: Settings, card: int, need: Needs) -> int:
    """Bytes of the card that may be filled. A budget of "auto" leaves the fast path's margin itself, and the
    small tensors counted in the plan lie in it."""
    if need.decisions.path == "fast" and settings.activation_budget == "auto":
        return card
    return int(card * (1 - margin(need.decisions.path)))


def fits(settings: Settings, card: int, need: Needs, host: float, machine: Machine) -> bool:
    """Whether what training needs fits card and host."""
    fits_host = need.host_fits(host_budget(settings, host, machine))
    return need.total <= usable(settings, card, need) and fits_host


def smaller(settings: Settings, general: str | None = None) -> Iterator[tuple[str, Settings]]:
    """Ways to need less, the harmless first, each laid over the ones before."""
    if general is None and settings.quantization == "nf4" and settings.weights_on_host != "auto":
        settings = replace(settings, weights_on_host="auto")
        yield "--model.weights_on_host auto", settings
    if settings.activation_budget != "auto":  # which keeps as little as it must where little fits
        least = "auto" if general is None else 0.0
        settings = replace(settings, activation_budget=least)
        yield (
            f"--model.activation_budget {least:.0f}" if general else "--model.activation_budget auto",
            settings,
        )
    while settings.batch_size > 1:
        half = settings.batch_size // 2
        settings = replace(
            settings, accumulate=settings.accumulate * settings.batch_size // half, batch_size=half
        )
        yield f"--data.batch_size {half} --trainer.accumulate_grad_batches {settings.accumulate}", settings
    if not settings.optimizer.endswith("8bit"):
        settings = replace(settings, optimizer="bitsandbytes.optim.PagedAdamW8bit")
        yield "--model.optimizer bitsandbytes.optim.PagedAdamW8bit", settings
    if settings.max_length > 1024:
        settings = replace(settings, max_length=1024)
        yield "--data.max_length 1024", settings
    while settings.rank and settings.rank > 8:
        settings = replace(settings, rank=settings.rank // 2)
        yield f"--model.lora.r {settings.rank}", settings


def fitting(
    settings: Settings,
    shape: Shape,
    card: int,
    general: str | None = None,
    machine: Machine = ASSUMED,
    host: float = math.inf,
) -> tuple[list[str], Settings] | None:
    """The first of `smaller`'s steps that together fit card and host, and what they come to; None if all do not."""
    flags: dict[str, str] = {}
    for flag, changed in smaller(settings, general):
        flags[flag.split()[0]] = flag  # a later value of one option replaces the earlier
        need = needs(changed, shape, card, general=general, machine=machine, host=host)
        if fits(changed, card, need, host, machine) and need.lacking <= 0:
            return list(flags.values()), changed
    return None


def wanted_host(
    settings: Settings, shape: Shape, card: int, general: str | None, machine: Machine, host: float
) -> int | None:
    """Bytes of host memory that must be available for a config to fit a card, to half a GiB; None if none suffice.

    Args:
        host: bytes with which it does not fit.
    """

    def suffices(halves: int) -> bool:
        tried = halves * GIB / 2
        need = needs(settings, shape, card, general=general, machine=machine, host=tried)
        return fits(settings, card, need, tried, machine)

    if math.isinf(host) or not suffices(2 * LARGEST_HOST):
        return None
    low, high = int(2 * host / GIB), 2 * LARGEST_HOST
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if suffices(middle) else (middle, high)
    return high * GIB // 2
