"""The plan of a run as one value: every figure that `plan` prints, computed from what it is given alone.

`python -m taigi_lightning plan --json` prints a `Plan` under its fields' names, which end in their units.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from taigi_lightning.planning.cards import Card
from taigi_lightning.planning.disk_needs import disk_needs, download_needs
from taigi_lightning.planning.memory import Shape
from taigi_lightning.planning.needing_less import Remedy, fits, needed, remedy_of, spare
from taigi_lightning.planning.needs import Decisions, Part
from taigi_lightning.planning.option_checks import check_options
from taigi_lightning.planning.plan_notes import notes_of
from taigi_lightning.planning.settings import Settings
from taigi_lightning.planning.step_time import ASSUMED, Machine


@dataclass(frozen=True)
class Disk:
    """A folder's disk: which it is, so that folders of one disk are known, and the bytes free there."""

    device: int
    free_bytes: int


@dataclass(frozen=True)
class Found:
    """What of the machine and of earlier work a plan is made with; nothing of it must be there.

    Args:
        card: the card here, or the one given.
        corpus_characters: of the training split.
        tokens_per_second: of an earlier run, or as given.
        disks: by folder.
        machine: how fast the host link and the card are taken to be.
        host_bytes: of host memory that are available; without a limit what moves there is taken to fit.
        without_triton: why Triton cannot be used where the card is; None where it can, or where that is not known.
    """

    card: Card | None = None
    corpus_characters: int | None = None
    tokens_per_second: float | None = None
    disks: Mapping[str, Disk] = field(default_factory=dict)
    machine: Machine = ASSUMED
    host_bytes: float = math.inf
    without_triton: str | None = None


@dataclass(frozen=True)
class Schedule:
    """How much a training run sees.

    Args:
        step_tokens: tokens of an optimizer step over all devices; at most, where rows are not filled.
        steps: optimizer steps; None where the config leaves their number to the data.
        run_tokens: of all steps.
        corpus_characters: of the training split; None without a cleaned corpus.
        corpus_passes: how many times the run sees the corpus, at one token a character.
        tokens_per_second: of an earlier run, or as given.
        run_seconds: of all steps, validation and merging aside.
    """

    step_tokens: int
    steps: int | None
    run_tokens: int | None
    corpus_characters: int | None
    corpus_passes: float | None
    tokens_per_second: float | None
    run_seconds: float | None


@dataclass(frozen=True)
class Folder:
    """What a run fetches or leaves in one folder; `enough` counts whatever else goes to the same disk."""

    folder: str
    parts: tuple[Part, ...]
    total_bytes: int
    free_bytes: int
    enough: bool


@dataclass(frozen=True)
class Plan:
    """What a config will need. A part is a `purpose`, its `bytes` and a `note`.

    Args:
        command: "fit" for a stage that trains, "predict" for one that answers.
        accelerator: "cpu" where `trainer.accelerator` says so and all lies in host memory; else "gpu".
        base, parameters, quantization: the base, its parameters, "nf4" or "none".
        lora_rank: of the adapter; None without one.
        batch_size_rows, max_length_tokens: of a micro-batch.
        decisions: which path the layers take and what becomes of them.
        memory: parts of the card's memory at the peak; without a card, the least.
        memory_total_bytes: their sum.
        host_memory: parts of the host's memory that hold what leaves the card.
        host_memory_total_bytes: their sum.
        host_memory_loading_bytes: of the host's memory, what 4-bit weights take while they load; 0 where they need not.
        host_memory_available_bytes: as given; None: what moves there is taken to fit.
        host_memory_lockable_bytes: what of it may be page-locked, as copies need; None where nothing limits that.
        host_memory_wanted_bytes: of host memory that would have to be available for it to fit the card; None where it
            fits, or would with none.
        advice_host_bytes: the same with `advice`, which wants less; None where that fits with what is available.
        card: the card planned for; None where none was found or given.
        fits: whether it fits the card, and the host if its memory was given; None without a card.
        spare_bytes: what the card has left; below 0, what it lacks.
        advice: options that make it fit; empty where it fits or nothing helps.
        schedule: what a training run sees; None for a prediction.
        disk: folders that the run fetches or writes to.
        notes: sentences on what the figures leave open.
    """

    command: Literal["fit", "predict"]
    accelerator: Literal["gpu", "cpu"]
    base: str
    parameters: int
    quantization: str
    lora_rank: int | None
    batch_size_rows: int
    max_length_tokens: int
    decisions: Decisions
    memory: tuple[Part, ...]
    memory_total_bytes: int
    host_memory: tuple[Part, ...]
    host_memory_total_bytes: int
    host_memory_loading_bytes: int
    host_memory_available_bytes: int | None
    host_memory_lockable_bytes: int | None
    host_memory_wanted_bytes: int | None
    card: Card | None
    fits: bool | None
    spare_bytes: int | None
    advice: tuple[str, ...]
    advice_host_bytes: int | None
    schedule: Schedule | None
    disk: tuple[Folder, ...]
    notes: tuple[str, ...]


def make_plan(settings: Settings, shape: Shape, found: Found, general: str | None = None) -> Plan:
    """The plan of a config.

    Args:
        general: why the base's layers take the general path; None: they take the fast one.

    Raises:
        InputError: the config predicts by generating, for which nothing counts, or wants of a base products in
            8 bits, or weights to wait on the host, that it does not allow.
    """
    check_options(settings, general, found.card, found.without_triton)
    if general is None:
        shape = shape.computed_in(settings.precision)
    found = replace(found, machine=found.machine.computing_in(settings.matmul))
    card = found.card.free_bytes if found.card else None
    need = needed(settings, shape, card, general, found.machine, found.host_bytes)
    fit = None if card is None else fits(settings, card, need, found.host_bytes, found.machine)
    remedy = (
        Remedy()
        if card is None or fit
        else remedy_of(settings, shape, card, general, found.machine, found.host_bytes)
    )
    return Plan(
        command="predict" if settings.predicts else "fit",
        accelerator="cpu" if settings.accelerator == "cpu" else "gpu",
        base=settings.base,
        parameters=shape.parameters,
        quantization="none" if settings.from_scratch else settings.quantization,
        lora_rank=settings.rank,
        batch_size_rows=settings.batch_size,
        max_length_tokens=settings.max_length,
        decisions=need.decisions,
        memory=need.device,
        memory_total_bytes=need.total,
        host_memory=need.host,
        host_memory_total_bytes=need.host_total,
        host_memory_loading_bytes=need.loading,
        host_memory_available_bytes=_finite(found.host_bytes),
        card=found.card,
        fits=fit,
        # Where it fits, the margin that is left free counts as spare.
        spare_bytes=None if card is None else spare(settings, card, need),
        host_memory_lockable_bytes=_finite(found.machine.lockable),
        host_memory_wanted_bytes=remedy.host_bytes,
        advice=remedy.flags,
        advice_host_bytes=remedy.flags_host_bytes,
        schedule=None if settings.predicts else _schedule(settings, found),
        disk=_folders(_disk_needs(settings, shape), found.disks),
        notes=tuple(notes_of(settings, need, found.machine, fit, found.card)),
    )


def _finite(size: float) -> int | None:
    return None if math.isinf(size) else int(size)


def folders(settings: Settings, shape: Shape) -> list[str]:
    """The folders whose disks a plan asks for in `Found.disks`."""
    return list(_disk_needs(settings, shape))


def _schedule(settings: Settings, found: Found) -> Schedule:
    steps = settings.max_steps if settings.max_steps > 0 else None
    total = steps and steps * settings.step_tokens
    characters, speed = found.corpus_characters, found.tokens_per_second
    return Schedule(
        step_tokens=settings.step_tokens,
        steps=steps,
        run_tokens=total,
        corpus_characters=characters,
        corpus_passes=total / characters if total and characters else None,
        tokens_per_second=speed,
        run_seconds=total / speed if total and speed else None,
    )


def _disk_needs(settings: Settings, shape: Shape) -> dict[str, dict[str, int]]:
    return download_needs(settings.base, shape) if settings.predicts else disk_needs(settings, shape)


def _folders(needed: Mapping[str, Mapping[str, int]], disks: Mapping[str, Disk]) -> tuple[Folder, ...]:
    totals = {folder: sum(parts.values()) for folder, parts in needed.items()}
    found = []
    for folder, parts in needed.items():
        disk = disks[folder]
        sharing = sum(totals[other] for other in needed if disks[other].device == disk.device)
        purposes = tuple(Part(purpose, size) for purpose, size in parts.items())
        found.append(Folder(folder, purposes, totals[folder], disk.free_bytes, disk.free_bytes > sharing))
    return tuple(found)
