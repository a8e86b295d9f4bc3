"""What a training config will need of card and disk, and how it could need less; `plan_text` says it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from huggingface_hub.constants import HF_HUB_CACHE

from taigi_lightning.planning import activation_plan, memory
from taigi_lightning.planning.disk import run_bytes
from taigi_lightning.planning.memory import GIB, Shape
from taigi_lightning.planning.settings import Settings, is_cached


class Need(NamedTuple):
    """Bytes on the card by purpose, in the order of the table, and the notes beside them."""

    parts: dict[str, int]
    notes: dict[str, str]
    host: int

    @property
    def total(self) -> int:
        return sum(self.parts.values())


def needs(settings: Settings, shape: Shape, card: int | None = None, element_size: int = 2) -> Need:
    """What training takes on a CUDA card at its peak.

    Args:
        card: its bytes, which an activation budget of "auto" fills; None takes the least.
    """
    tokens, rank = settings.tokens, settings.rank or 0
    projections, rest = memory.weight_bytes(shape, settings.quantization, element_size)
    sizes = memory.adapter_sizes(shape, rank, settings.targets) if rank else [shape.parameters]
    adapter = 4 * sum(sizes)
    state = memory.optimizer_bytes(settings.optimizer, sizes)
    taken = projections + rest + 2 * adapter + state + memory.CONTEXT
    embedding = 0 if shape.tied else shape.vocabulary * shape.hidden * element_size
    decision = activation_plan.decide(
        shape,
        tokens,
        rank,
        budget="auto" if settings.activation_budget == "auto" else float(settings.activation_budget),
        room=0.0 if card is None else activation_plan.room_left(card, taken, shape, tokens, element_size),
        host_room=math.inf,  # the host is taken to have room for what moves there; the table says how much
        embedding=embedding,
        element_size=element_size,
        packed=settings.quantization == "nf4",
    )
    rest -= embedding if decision.embedding_on_host else 0
    kept, host = activation_plan.kept_bytes(decision.savings, shape, tokens, rank, element_size)
    working = activation_plan.working_bytes(shape, tokens, element_size)
    at_loss = activation_plan.loss_bytes(shape, tokens, element_size)
    transient = max(at_loss, working + 2 * tokens * shape.hidden * element_size)
    in_step = max(0, memory.step_bytes(settings.optimizer, sizes) - kept - transient)
    parts = {
        "weights, projections": projections,
        "weights, the rest": rest,
        "weights, unpacked": decision.unpacked
        * activation_plan.unpacked_bytes(shape, rank, element_size, settings.quantization == "nf4"),
        "adapter": adapter,
        "gradients": adapter,
        "optimizer state": state,
        "activations kept": kept,
        "loss or one layer": transient,
        "optimizer step": in_step,
        "CUDA itself": memory.CONTEXT,
    }
    notes = {
        "weights, projections": settings.quantization,
        "weights, the rest": "16 bits: embeddings, norms",
        "weights, unpacked": f"16 bits instead, of {decision.unpacked} of {shape.layers} layers",
        "adapter": f"{sum(sizes):,} parameters, 32 bits",
        "optimizer state": settings.optimizer.rpartition(".")[2],
        "activations kept": f"all of {decision.keeping} of {shape.layers} layers, "
        f"the others' {host / GIB:.1f} GiB on the host",
        "loss or one layer": "the larger of the two",
        "CUDA itself": "about",
    }
    if decision.keeping == shape.layers:
        notes["activations kept"] = f"all of {shape.layers} layers"
    return Need({name: size for name, size in parts.items() if size}, notes, host)


def disk_needs(settings: Settings, shape: Shape) -> dict[str, dict[str, int]]:
    """Bytes a run fetches or leaves, by folder and purpose."""
    sizes = (
        memory.adapter_sizes(shape, settings.rank, settings.targets) if settings.rank else [shape.parameters]
    )
    needed = {
        settings.folder: run_bytes(
            adapter=4 * sum(sizes),
            optimizer=memory.optimizer_bytes(settings.optimizer, sizes),
            checkpoints=max(settings.checkpoints, 0),
            merged=2 * shape.parameters if settings.merge else 0,
        )
    }
    return download_needs(settings.base, shape) | needed


def download_needs(base: str, shape: Shape) -> dict[str, dict[str, int]]:
    """Bytes of a base that is still to be fetched, by folder and purpose; empty if it is here."""
    if Path(base).is_dir() or is_cached(base):
        return {}
    return {HF_HUB_CACHE: {f"download of {base}": 2 * shape.parameters}}


def smaller(settings: Settings) -> Iterator[tuple[str, Settings]]:
    """Ways to need less, the harmless first, each laid over the ones before."""
    if settings.activation_budget != 0.0:
        settings = replace(settings, activation_budget=0.0)
        yield "--model.activation_budget 0", settings
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


def fitting_flags(settings: Settings, shape: Shape, card: int) -> list[str] | None:
    """The first of `smaller`'s steps that together fit the card; None if all of them do not."""
    flags: dict[str, str] = {}
    for flag, changed in smaller(settings):
        flags[flag.split()[0]] = flag  # a later value of one option replaces the earlier
        if needs(changed, shape, card).total <= card * (1 - activation_plan.MARGIN):
            return list(flags.values())
    return None
