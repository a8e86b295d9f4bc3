"""python -m taigi_lightning plan: what a config will need, said before anything is downloaded or loaded."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub.constants import HF_HUB_CACHE

from taigi_lightning import activation_plan, memory
from taigi_lightning.disk import free_space, run_bytes, same_disk
from taigi_lightning.memory import GIB, Shape
from taigi_lightning.run_settings import (
    Settings,
    base_shape,
    corpus_characters,
    found_card,
    is_cached,
    parse_size,
    past_speed,
    read_settings,
)


class Need(NamedTuple):
    """Bytes on the card by purpose, in the order of the table, and the notes beside them."""

    parts: dict[str, int]
    notes: dict[str, str]
    host: int

    @property
    def total(self) -> int:
        return sum(self.parts.values())


def print_plan(config: Mapping[str, Any]) -> None:
    """Print the plan of a config.

    Args:
        config: what the command line parsed: `fit`'s config, with `gpu_memory` and `tokens_per_second`.

    Raises:
        InputError: the base's shape is not known.
    """
    settings = read_settings(config)
    size = config["gpu_memory"]
    card = ("the card given", parse_size(size)) if size else found_card()
    speed = config["tokens_per_second"] or past_speed(settings)
    print(render(settings, base_shape(settings.base), card, speed))


# ---- adding up ------------------------------------------------------------------------------------


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
    if not Path(settings.base).is_dir() and not is_cached(settings.base):
        needed = {HF_HUB_CACHE: {f"download of {settings.base}": 2 * shape.parameters}, **needed}
    return needed


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


# ---- saying it ------------------------------------------------------------------------------------


def render(settings: Settings, shape: Shape, card: tuple[str, int] | None, speed: float | None) -> str:
    """The whole plan as text."""
    size = card[1] if card else None
    need = needs(settings, shape, size)
    trained = f"LoRA r {settings.rank}" if settings.rank else "every weight"
    lines = [
        f"{settings.base}: {shape.parameters:,} parameters, {settings.quantization}, {trained}, "
        f"{settings.batch_size} x {settings.max_length} tokens",
        "",
        "On the card, at the peak" + (" (GiB)" if card else ", at least (GiB)"),
        *(
            f"  {name:<22}{part / GIB:8.2f}  {need.notes.get(name, '')}".rstrip()
            for name, part in need.parts.items()
        ),
        f"  {'total':<22}{need.total / GIB:8.2f}",
        "",
        *_verdict(settings, shape, card, need),
        *_course(settings, speed),
        *_disk(settings, shape),
    ]
    return "\n".join(lines)


def _verdict(settings: Settings, shape: Shape, card: tuple[str, int] | None, need: Need) -> list[str]:
    if card is None:
        return ["No NVIDIA card found here. Give one: --gpu_memory 16GiB", ""]
    name, size = card
    # A budget of "auto" leaves the margin itself, and the small tensors counted here lie in it.
    usable = size if settings.activation_budget == "auto" else size * (1 - activation_plan.MARGIN)
    if need.total <= usable:
        return [
            f"It fits {name} ({size / GIB:.1f} GiB), with {(size - need.total) / GIB:.1f} GiB to spare.",
            "",
        ]
    flags = fitting_flags(settings, shape, size)
    head = f"It does not fit {name} ({size / GIB:.1f} GiB): {(need.total - usable) / GIB:.1f} GiB too much."
    if flags is None:
        return [head, "Nothing short of a smaller base or a larger card changes that.", ""]
    return [head, "This fits:", *(f"  {flag}" for flag in flags), ""]


def _course(settings: Settings, speed: float | None) -> list[str]:
    lines = [f"An optimizer step sees {settings.step_tokens:,} tokens."]
    steps = settings.max_steps
    total = steps * settings.step_tokens
    characters = corpus_characters(settings.corpus) if settings.corpus else None
    if steps > 0 and characters:
        lines.append(
            f"{steps:,} steps see {total:,} tokens, about {total / characters:.1f} times the corpus "
            f"({characters:,} characters, at one token each)."
        )
    if steps > 0 and speed:
        hours = total / speed / 3600
        time = f"{hours:.1f} hours" if hours >= 1 else f"{hours * 60:.0f} minutes"
        lines.append(f"At {speed:,.0f} tokens/s the run takes {time}, validation and merging aside.")
    elif steps > 0:
        lines.append("How long it takes shows after a first run, or give --tokens_per_second.")
    return [*lines, ""]


def _disk(settings: Settings, shape: Shape) -> list[str]:
    lines = ["On disk (GiB)"]
    needed = disk_needs(settings, shape)
    frees = {folder: free_space(folder) for folder in needed}
    for folder, parts in needed.items():
        total, (place, free) = sum(parts.values()), frees[folder]
        # Folders of one disk share what is free there.
        sharing = sum(sum(needed[other].values()) for other in needed if same_disk(frees[other][0], place))
        verdict = "enough" if free > sharing else "NOT enough"
        lines += [f"  {name:<44}{size / GIB:8.2f}" for name, size in parts.items()]
        lines.append(f"  {f'in {folder}':<44}{total / GIB:8.2f}  {free / GIB:.1f} free there: {verdict}")
    return lines
