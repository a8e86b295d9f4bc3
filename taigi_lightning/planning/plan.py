"""The plan of a run as one value: every figure that `plan` prints, computed from what it is given alone.

`python -m taigi_lightning plan --json` prints a `Plan` under its fields' names, which end in their units.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from taigi_lightning.kernels.matmul import CARDS, format_of, forward_in_8_bits
from taigi_lightning.planning.disk_needs import disk_needs, download_needs
from taigi_lightning.planning.memory import GIB, Shape
from taigi_lightning.planning.needs import Decisions, Needs, Part
from taigi_lightning.planning.placement import HOST_SHARE
from taigi_lightning.planning.prediction_needs import fitting_tokens, predict_needs
from taigi_lightning.planning.settings import Settings, check_options
from taigi_lightning.planning.step_time import ASSUMED, Machine
from taigi_lightning.planning.training_needs import (
    ACTIVATIONS,
    WAITING,
    fitting,
    margin,
    needs,
)


@dataclass(frozen=True)
class Card:
    """One GPU: its name and the bytes of its own memory."""

    name: str
    memory_bytes: int


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
    """

    card: Card | None = None
    corpus_characters: int | None = None
    tokens_per_second: float | None = None
    disks: Mapping[str, Disk] = field(default_factory=dict)
    machine: Machine = ASSUMED
    host_bytes: float = math.inf


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
        base, parameters, quantization: the base, its parameters, "nf4" or "none".
        lora_rank: of the adapter; None without one.
        batch_size_rows, max_length_tokens: of a micro-batch.
        decisions: which path the layers take and what becomes of them.
        memory: parts of the card's memory at the peak; without a card, the least.
        memory_total_bytes: their sum.
        host_memory: parts of the host's memory that hold what leaves the card.
        host_memory_total_bytes: their sum.
        host_memory_available_bytes: as given; None: what moves there is taken to fit.
        card: the card planned for; None where none was found or given.
        fits: whether it fits the card, and the host if its memory was given; None without a card.
        spare_bytes: what the card has left; below 0, what it lacks.
        advice: options that make it fit; empty where it fits or nothing helps.
        schedule: what a training run sees; None for a prediction.
        disk: folders that the run fetches or writes to.
        notes: sentences on what the figures leave open.
    """

    command: Literal["fit", "predict"]
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
    host_memory_available_bytes: int | None
    card: Card | None
    fits: bool | None
    spare_bytes: int | None
    advice: tuple[str, ...]
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
    check_options(settings, general)
    if general is None:
        shape = shape.computed_in(settings.precision)
    found = replace(found, machine=found.machine.computing_in(settings.matmul))
    card = found.card.memory_bytes if found.card else None
    if settings.predicts:
        need = predict_needs(
            settings, shape, card, general=general, machine=found.machine, host=found.host_bytes
        )
    else:
        need = needs(settings, shape, card, general=general, machine=found.machine, host=found.host_bytes)
    spare = None if card is None else _usable(settings, card, need) - need.total
    fits = None if spare is None else spare >= 0 and need.host_fits(found.host_bytes)
    return Plan(
        command="predict" if settings.predicts else "fit",
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
        host_memory_available_bytes=None if math.isinf(found.host_bytes) else int(found.host_bytes),
        card=found.card,
        fits=fits,
        # Where it fits, the margin that is left free counts as spare.
        spare_bytes=spare if card is None or spare is None or spare < 0 else card - need.total,
        advice=_advice(settings, shape, card, general, found) if card and fits is False else (),
        schedule=None if settings.predicts else _schedule(settings, found),
        disk=_folders(_disk_needs(settings, shape), found.disks),
        notes=tuple(_notes(settings, need, found.machine)),
    )


def folders(settings: Settings, shape: Shape) -> list[str]:
    """The folders whose disks a plan asks for in `Found.disks`."""
    return list(_disk_needs(settings, shape))


def _usable(settings: Settings, card: int, need: Needs) -> int:
    """Bytes of the card that may be filled. A budget of "auto" leaves the fast path's margin itself, and the
    small tensors counted in the plan lie in it; the headroom of a prediction is one."""
    if settings.predicts or (need.decisions.path == "fast" and settings.activation_budget == "auto"):
        return card
    return int(card * (1 - margin(need.decisions.path)))


def _advice(
    settings: Settings, shape: Shape, card: int, general: str | None, found: Found
) -> tuple[str, ...]:
    if settings.predicts:
        tokens = fitting_tokens(settings, shape, card, found.host_bytes)
        return (f"--data.batch_tokens {tokens}",) if tokens else ()
    smaller = fitting(settings, shape, card, general, found.machine, found.host_bytes)
    return tuple(smaller[0]) if smaller else ()


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


def _notes(settings: Settings, need: Needs, machine: Machine) -> list[str]:
    notes = []
    name = format_of(settings.matmul)
    if name is not None:
        which = "Products" if forward_in_8_bits(settings.matmul) else "The gradients' products"
        notes.append(
            f"{which} with the 4-bit weights are in {name}, which takes a card of compute capability {CARDS[name]} and "
            "trainer.precision bf16-mixed."
        )
    if need.decisions.path_reason is not None:
        what = "no layer is dequantised" if settings.predicts else "it is slower and takes more memory"
        notes.append(
            f"Its layers run as transformers wrote them, not on the fast path ({need.decisions.path_reason}): {what}."
        )
    if settings.new_tokens and not settings.predicts:
        notes.append(
            f"Rows of {settings.new_tokens:,} tokens train beside LoRA, so embedding and output head stay on the card. "
            "All are counted as added; those of words that are tokens already make no table longer."
        )
    activations = sum(part.bytes for part in need.host if part.purpose == ACTIVATIONS)
    waiting = sum(part.bytes for part in need.host if part.purpose == WAITING)
    if waiting:
        found, link, rate = need.decisions, machine.link / 1e9, machine.rate / 1e12
        notes.append(
            f"The 4-bit weights of {found.layers_on_host} of {found.layers} layers wait in host memory and arrive "
            f"while others compute: {found.slow_down:.2f} times the time at {link:.0f} GB/s (--host_link) on a card of "
            f"{rate:.0f} TFLOP/s. A run measures both and decides anew."
        )
    if need.host:
        parts = ", ".join(f"{part.purpose} {part.bytes / GIB:.1f}" for part in need.host)
        available = max(2 * activations, (waiting + activations) / HOST_SHARE) / GIB
        ranks = f" Its {settings.devices} ranks hold one copy of the weights together." if waiting else ""
        notes.append(
            f"On the host (GiB): {parts}. {available:.1f} GiB must be available there: at most half takes activations."
            + (ranks if settings.devices > 1 else "")
        )
    if settings.predicts or settings.fills_rows:
        return notes
    return [
        *notes,
        "Rows are not filled: a step sees as many tokens as its examples have, and at most these.",
    ]
