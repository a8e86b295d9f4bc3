"""What a decoder does with the memory that there is when a micro-batch of a new shape comes, or why it cannot train."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from taigi_lightning.errors import InputError
from taigi_lightning.fast_path.activation_offload import host_budget
from taigi_lightning.fast_path.device_memory import allowed_bytes, margin
from taigi_lightning.fast_path.machine_speed import measure_machine
from taigi_lightning.planning import activation_plan, placement
from taigi_lightning.planning.activation_plan import Saving
from taigi_lightning.planning.host_budget import HostBudget
from taigi_lightning.planning.memory import GIB, packed_layer_bytes
from taigi_lightning.planning.mix_in_words import mix_in_words
from taigi_lightning.planning.placement import Placement

if TYPE_CHECKING:
    from taigi_lightning.fast_path.decoder import FastDecoder

Shape = tuple[int, int]
TRIES = 4  # to find what the system locks: what it locked for one tensor may be too small for another


def decide_memory(decoder: FastDecoder, shape: Shape) -> Placement:
    """What to do with device and host for micro-batches (B, T), the host's buffers reserved before the first of them.

    Where the system does not lock as much host memory as was counted on, it is decided anew with what it does.

    Raises:
        InputError: a budget of "auto" finds too little memory for the least that training takes.
    """
    budget = _budget(decoder)
    choice = place_now(decoder, shape, budget)
    if decoder.budget == "auto" and _beyond(decoder, shape, choice) > 0:
        raise InputError(_too_little(decoder, shape, budget, choice))
    for _ in range(TRIES):
        if decoder.stash is None or _reserve(decoder, shape, budget, choice):
            return choice
        locked = decoder.stream.host_bytes() + budget.ranks * decoder.stash.locked_bytes()
        budget = replace(budget, lockable=min(budget.lockable, locked))
        other = place_now(decoder, shape, budget)
        if other.lacking > max(0.0, choice.lacking):
            break
        choice = other
    return choice  # some of it with memory that is not locked: copies are slower


def moving(decoder: FastDecoder, shape: Shape, savings: Sequence[Saving]) -> dict[tuple[int, str], int]:
    """Bytes of what goes to the host of micro-batches (B, T), by layer and name."""
    sizes = activation_plan.layer_bytes(decoder.shape, math.prod(shape), decoder.element_size)
    return {(layer, name): sizes[name] for layer, saving in enumerate(savings) for name in saving.host}


def _budget(decoder: FastDecoder) -> HostBudget:
    """Of this machine's memory as it is now, as if nothing of this run waited there."""
    stash = decoder.stash
    moved = decoder.stream.host_bytes()
    budget = host_budget(decoder.offload if stash is not None else False, moved, _machine_lockable(decoder))
    own = 0 if stash is None else stash.host_bytes()
    return replace(budget, available=budget.available + budget.ranks * own)


def _machine_lockable(decoder: FastDecoder) -> float:
    return measure_machine(decoder.device, decoder.backbone.norm.weight.dtype, decoder.matmul).lockable


def place_now(decoder: FastDecoder, shape: Shape, budget: HostBudget) -> Placement:
    """`placement.place` of a decoder with the memory that there is now, the packed weights counted as if all were on
    the device."""
    tokens, embedding = math.prod(shape), decoder.backbone.embed_tokens.weight
    movable = embedding.nbytes if embedding.is_cuda and decoder.embedding_on_host is None else 0
    on_host = decoder.stream.host_bytes()
    return placement.place(
        decoder.shape,
        tokens,
        decoder.rank,
        weights_on_host=decoder.weights_on_host,
        machine=measure_machine(decoder.device, decoder.backbone.norm.weight.dtype, decoder.matmul),
        budget=decoder.budget,
        headroom=decoder.headroom(tokens) - on_host + decoder.stream.slots_bytes(),
        host=budget,
        embedding=movable,
        head=decoder.tables.movable_head() if decoder.weights_on_host not in ("none", 0) else 0,
        element_size=decoder.element_size,
        packed=decoder.packed,
        weight_size=activation_plan.held_size(decoder.matmul, decoder.element_size),
        waiting=len(decoder.stream.hosts) if decoder.plans else 0,
    )


def _reserve(decoder: FastDecoder, shape: Shape, budget: HostBudget, choice: Placement) -> bool:
    """Have the host's buffers for what layers move."""
    assert decoder.stash is not None
    weights = choice.on_host * packed_layer_bytes(decoder.shape)
    decoder.host_limit = budget.activations(weights, 0.0)
    return decoder.stash.reserve(moving(decoder, shape, choice.decision.savings), decoder.host_limit)


def _beyond(decoder: FastDecoder, shape: Shape, choice: Placement) -> float:
    """Bytes of the device that are lacking if it is filled to the last, and small tensors are as many as these layers
    save: less than a plan says of it where it does not fit."""
    tokens, rank, size = math.prod(shape), decoder.rank, decoder.element_size
    savings = choice.decision.savings
    with_small, without = (
        activation_plan.kept_bytes(savings, decoder.shape, tokens, r, size)[0] for r in (rank, 0)
    )
    counted = activation_plan.small_bytes(decoder.shape, tokens, rank, size)
    spare = 0.0
    if decoder.device.type == "cuda":
        card = allowed_bytes(decoder.device)[0]
        spare = activation_plan.left_free(card, decoder.shape, tokens, size, margin())
    return choice.lacking - spare - max(0, counted - (with_small - without))


def in_words(choice: Placement) -> str:
    """What was decided."""
    layers = len(choice.decision.savings)
    said = mix_in_words(choice.decision.savings)
    said = f"{said} keep theirs" if choice.decision.keeping == layers else said
    away = [f"the 4-bit weights of {choice.on_host} of {layers} layers"] if choice.on_host else []
    away += ["the input embedding"] if choice.decision.embedding_on_host else []
    away += ["the output head"] if choice.head_on_host else []
    return f"{said}; on the host wait {', '.join(away)}" if away else said


def _too_little(decoder: FastDecoder, shape: Shape, budget: HostBudget, choice: Placement) -> str:
    """What lacks, and the most rows that fit instead."""
    rows, columns = shape
    card, available = allowed_bytes(decoder.device)[0] / GIB, budget.available / GIB
    fewer, shorter = _fitting_shape(decoder, shape, budget) or (0, 0)
    if not fewer:
        advice = "No smaller micro-batch fits either: take a smaller base or a lower rank, --model.lora.r"
    elif shorter == columns:
        advice = (
            f"Train on fewer rows at a time, --data.batch_size {fewer} with --trainer.accumulate_grad_batches "
            f"{rows // fewer} times as large"
        )
    else:
        advice = (
            f"Train on one row at a time of at most {shorter} tokens, --data.batch_size 1 --data.max_length "
        )
        advice += str(shorter)
    return (
        f"A micro-batch of {rows} x {columns} tokens does not fit: the card would lack "
        f"{_beyond(decoder, shape, choice) / GIB:.1f} GiB of {card:.1f}, with {available:.1f} GiB of host memory "
        f"available beside it, of which {budget.in_all / GIB:.1f} may take what leaves the card. {advice}; or close "
        "other programs. `python -m taigi_lightning plan` with --gpu_memory and --host_memory says what fits; "
        "--model.activation_budget 0 tries all the same."
    )


def _fitting_shape(decoder: FastDecoder, shape: Shape, budget: HostBudget) -> Shape | None:
    """The most rows, or else tokens of one row, that fit instead; None if none do."""
    rows, columns = shape
    shapes = [(fewer, columns) for fewer in range(rows // 2, 0, -1) if rows % fewer == 0]
    shapes += [(1, columns >> halvings) for halvings in range(1, columns.bit_length())]
    return next((tried for tried in shapes if place_now(decoder, tried, budget).lacking <= 0), None)
