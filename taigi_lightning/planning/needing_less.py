"""Whether a config fits a card and its host, and by which options, or how much host memory, it would."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from taigi_lightning.planning.memory import GIB, Shape
from taigi_lightning.planning.needs import Needs
from taigi_lightning.planning.precisions import ON_GPUS
from taigi_lightning.planning.prediction_needs import predict_needs
from taigi_lightning.planning.settings import Settings
from taigi_lightning.planning.step_time import ASSUMED, Machine
from taigi_lightning.planning.training_needs import host_budget, margin, needs

LARGEST_HOST = 256  # GiB: more than a machine with such a card has
EIGHT_BIT = "bitsandbytes.optim.PagedAdamW8bit"


def needed(
    settings: Settings,
    shape: Shape,
    card: int | None,
    general: str | None = None,
    machine: Machine = ASSUMED,
    host: float = math.inf,
) -> Needs:
    """What a config takes, whether it trains or answers; arguments and errors as for `needs` and `predict_needs`."""
    count = predict_needs if settings.predicts else needs
    return count(settings, shape, card, general=general, machine=machine, host=host)


def spare(settings: Settings, card: int, need: Needs) -> int:
    """Bytes that the card has left; below 0, what it lacks.

    A budget of "auto" leaves the fast path's margin itself, and the small tensors counted in the plan lie in it; the
    headroom of a prediction is a margin by itself. Of a card that anything else fills the margin is to stay free.
    """
    lacking = need.total - card
    if not settings.predicts and need.decisions.path == "general":
        lacking = max(lacking, math.ceil(need.total - card * (1 - margin("general"))))
    elif not settings.predicts and settings.activation_budget != "auto":
        lacking = max(lacking, math.ceil(need.lacking))
    return -lacking if lacking > 0 else card - need.total


def fits(settings: Settings, card: int, need: Needs, host: float, machine: Machine) -> bool:
    """Whether what a config needs fits card and host."""
    return spare(settings, card, need) >= 0 and need.host_fits(host_budget(settings, host, machine))


def smaller(settings: Settings, general: str | None = None) -> Iterator[tuple[str, Settings]]:
    """Ways to need less, the harmless first, each laid over the ones before."""
    for ways in (_weights_may_wait, _less_kept, _fewer_rows, _fewer_bits, _weights_may_wait, _less_learned):
        for flag, changed in ways(settings, general):
            settings = changed
            yield flag, settings


Ways = Iterator[tuple[str, Settings]]


def _weights_may_wait(settings: Settings, general: str | None) -> Ways:
    if general is None and settings.quantization == "nf4" and settings.weights_on_host != "auto":
        yield "--model.weights_on_host auto", replace(settings, weights_on_host="auto")


def _less_kept(settings: Settings, general: str | None) -> Ways:
    """The budget that keeps as little as it must where little fits."""
    if settings.predicts or settings.activation_budget == "auto":
        return
    if general is None and not settings.from_scratch:
        yield "--model.activation_budget auto", replace(settings, activation_budget="auto")
    elif settings.activation_budget:
        yield "--model.activation_budget 0", replace(settings, activation_budget=0.0)


def _fewer_rows(settings: Settings, general: str | None) -> Ways:
    """As many rows a step, of which fewer are computed together; of a prediction shorter rows, down to a prompt's."""
    while settings.predicts and settings.batch_tokens // 2 >= settings.max_length:
        settings = replace(settings, batch_tokens=settings.batch_tokens // 2)
        yield f"--data.batch_tokens {settings.batch_tokens}", settings
    while not settings.predicts and (rows := settings.batch_size) > 1:
        fewer = max(n for n in range(1, rows // 2 + 1) if rows % n == 0)
        steps = settings.accumulate * rows // fewer
        settings = replace(settings, accumulate=steps, batch_size=fewer)
        yield f"--data.batch_size {fewer} --trainer.accumulate_grad_batches {steps}", settings


def _fewer_bits(settings: Settings, general: str | None) -> Ways:
    if settings.element_size > 2 and settings.accelerator in ON_GPUS:
        settings = replace(settings, precision=settings.card_precision)
        yield f"--trainer.precision {settings.precision}", settings
    if not settings.predicts and not settings.optimizer.endswith("8bit"):
        settings = replace(settings, optimizer=EIGHT_BIT)
        yield f"--model.optimizer {EIGHT_BIT}", settings
    if settings.quantization != "nf4" and not settings.from_scratch:
        yield "--model.quantization nf4", replace(settings, quantization="nf4")


def _less_learned(settings: Settings, general: str | None) -> Ways:
    if settings.predicts:
        return
    if settings.max_length > 1024:
        settings = replace(settings, max_length=1024)
        yield "--data.max_length 1024", settings
    while settings.rank and settings.rank > 8 and not settings.rank_is_saved:
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
    for flags, changed in _steps(settings, general):
        need = needed(changed, shape, card, general, machine, host)
        if fits(changed, card, need, host, machine) and need.lacking <= 0:
            return flags, changed
    return None


def _steps(settings: Settings, general: str | None) -> Iterator[tuple[list[str], Settings]]:
    """`smaller`'s steps with all flags up to each; a later value of one option replaces the earlier."""
    flags: dict[str, str] = {}
    for flag, changed in smaller(settings, general):
        flags[flag.split()[0]] = flag
        yield list(flags.values()), changed


def wanted_host(
    settings: Settings, shape: Shape, card: int, general: str | None, machine: Machine, host: float
) -> int | None:
    """Bytes of host memory that must be available for a config to fit a card, to half a GiB; None if none suffice.

    Args:
        host: bytes with which it does not fit.
    """

    def suffices(halves: int) -> bool:
        tried = halves * GIB / 2
        need = needed(settings, shape, card, general, machine, tried)
        return fits(settings, card, need, tried, machine)

    if math.isinf(host) or not suffices(2 * LARGEST_HOST):
        return None
    low, high = int(2 * host / GIB), 2 * LARGEST_HOST
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if suffices(middle) else (middle, high)
    return high * GIB // 2


@dataclass(frozen=True)
class Remedy:
    """What would make a config fit that does not.

    Args:
        host_bytes: of host memory that would have to be available for it as it is; None if none suffice.
        flags: options that make it fit; empty where none do.
        flags_host_bytes: of host memory that they want available; None where what there is suffices.
    """

    host_bytes: int | None = None
    flags: tuple[str, ...] = ()
    flags_host_bytes: int | None = None


def remedy_of(
    settings: Settings, shape: Shape, card: int, general: str | None, machine: Machine, host: float
) -> Remedy:
    """How a config could be made to fit: as `fitting` and `wanted_host`, and where no options help alone, by those that
    with more host memory want least of it and leave what is learnt as it is; or else by any."""
    as_it_is = wanted_host(settings, shape, card, general, machine, host)
    if found := fitting(settings, shape, card, general, machine, host):
        return Remedy(as_it_is, tuple(found[0]))
    if math.isinf(host):
        return Remedy()
    alike = [step for step in _steps(settings, general) if _learns_alike(settings, step[1])]
    for flags, changed in (*alike[-1:], *_first_with_any_host(settings, shape, card, general, machine)):
        wanted = wanted_host(changed, shape, card, general, machine, host)
        if wanted is not None and wanted < (as_it_is or math.inf):
            return Remedy(as_it_is, tuple(flags), wanted)
    return Remedy(as_it_is)


def _first_with_any_host(
    settings: Settings, shape: Shape, card: int, general: str | None, machine: Machine
) -> list[tuple[list[str], Settings]]:
    found = fitting(settings, shape, card, general, machine, LARGEST_HOST * GIB)
    return [] if found is None else [found]


def _learns_alike(settings: Settings, changed: Settings) -> bool:
    """Whether a changed config trains the same in other portions."""
    return (
        replace(
            changed, batch_size=settings.batch_size, accumulate=settings.accumulate, batch_tokens=settings.batch_tokens,
            weights_on_host=settings.weights_on_host, activation_budget=settings.activation_budget,
        )
        == settings
    )  # fmt: skip
