"""What a config of `predict` or `test` will need of the card."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal, NamedTuple

from taigi_lightning.errors import InputError
from taigi_lightning.kernels.matmul import forward_in_8_bits
from taigi_lightning.planning import memory
from taigi_lightning.planning.activation_plan import held_size, unpacked_bytes
from taigi_lightning.planning.earlier_stages import frozen_part
from taigi_lightning.planning.host_budget import HostBudget
from taigi_lightning.planning.memory import Shape
from taigi_lightning.planning.needs import Decisions, Needs, Part, taken
from taigi_lightning.planning.placement import head_bytes, place_prediction, slot_bytes
from taigi_lightning.planning.settings import Settings
from taigi_lightning.planning.step_time import ASSUMED, Machine, prefill_seconds
from taigi_lightning.planning.strong_part import strong_part
from taigi_lightning.planning.training_needs import (
    CUDA,
    DEQUANTISED,
    HEAD,
    IN_TRANSIT,
    WAITING,
    host_budget,
)

ROW = "headroom for one pass"


def predict_needs(
    settings: Settings,
    shape: Shape,
    card: int | None = None,
    element_size: int = 2,
    general: str | None = None,
    machine: Machine = ASSUMED,
    host: float = math.inf,
) -> Needs:
    """What prediction takes on a CUDA card, with the headroom for its longest row.

    Args:
        card: its bytes, the rest of which dequantised layers fill on the fast path; what does not fit waits on the
            host. None takes the least that needs no host.
        general: why the base's layers take the general path; None: they take the fast one.
        machine: how fast the host link and the card are.
        host: bytes available on the host.

    Raises:
        InputError: the config answers by generating text, for which nothing here counts.
    """
    _refuse_generating(settings)
    rank, tokens = settings.rank or 0, settings.row_tokens
    projections, rest = memory.weight_bytes(shape, settings.quantization, element_size)
    adapter = memory.adapter_sizes(shape, rank, settings.targets)
    frozen = frozen_part(settings.ranks_beside, shape, element_size)
    strong = strong_part("bf16" if general else settings.matmul, shape, element_size)
    held = projections + rest + frozen.bytes + strong.bytes + 4 * sum(adapter) + memory.CONTEXT
    size, bits = (
        held_size(settings.matmul, element_size, backward=False),
        8 if forward_in_8_bits(settings.matmul) else 16,
    )
    # Its 4 bits stay on the card as well.
    a_layer = unpacked_bytes(shape, rank, element_size, packed=False, weight_size=size)
    budget = host_budget(settings, host, machine)
    choice = _choose(settings, shape, held, None if general else card, a_layer, element_size, budget)
    layers, waiting = choice.dequantised, choice.waiting
    away = waiting * memory.packed_layer_bytes(shape)
    head = head_bytes(shape, "all", element_size) if choice.head_waits else 0
    device = [
        Part("weights, projections", projections - away, settings.quantization),
        Part("weights, the rest", rest - head, "16 bits: embeddings, norms"),
        Part(IN_TRANSIT, slot_bytes(shape, waiting), "two layers, on their way from the host"),
        Part(
            DEQUANTISED,
            layers * a_layer,
            f"{bits} bits as well, of {layers} of {shape.layers} layers, for speed",
        ),
        Part("adapter", 4 * sum(adapter), f"{sum(adapter):,} parameters, 32 bits"),
        frozen,
        strong,
        Part(
            ROW, choice.row, f"of {tokens:,} tokens: {'at its peak' if waiting else 'kept free, generously'}"
        ),
        CUDA,
    ]
    on_host = [
        Part(WAITING, away, f"4 bits, of {waiting} of {shape.layers} layers"),
        Part(HEAD, settings.devices * head),
    ]
    path: Literal["fast", "general"] = "fast" if general is None else "general"
    slow_down = prefill_seconds(waiting, shape, tokens, machine) / prefill_seconds(0, shape, tokens, machine)
    decisions = Decisions(
        path, general, shape.layers, layers_dequantised=layers, head_on_host=choice.head_waits,
        layers_on_host=waiting, slow_down=slow_down,
    )  # fmt: skip
    return Needs(decisions, taken(device), taken(on_host))


def _refuse_generating(settings: Settings) -> None:
    if settings.answer_strategy != "choice":
        raise InputError(
            f"What answer_strategy {settings.answer_strategy} takes is not counted: its cache grows with the "
            "prompts of a batch. Plan with --model.answer_strategy choice for what the weights take."
        )


class _Choice(NamedTuple):
    """Layers dequantised, layers whose packed weights wait, whether the head does, bytes kept free for a row."""

    dequantised: int
    waiting: int
    head_waits: bool
    row: int


def _choose(
    settings: Settings,
    shape: Shape,
    held: int,
    card: int | None,
    a_layer: int,
    element_size: int,
    host: HostBudget,
) -> _Choice:
    """What `prefill.unpack_what_fits` will decide, on a card that holds so many bytes beside a row."""
    row = memory.prefill_bytes(shape.hidden, shape.intermediate, settings.row_tokens, element_size)
    may_wait = settings.quantization == "nf4" and settings.weights_on_host not in ("none", 0)
    if card is None or not may_wait or (settings.weights_on_host == "auto" and held + row <= card):
        layers = 0 if card is None else max(0, min(shape.layers, (card - held - row) // a_layer))
        return _Choice(layers, 0, False, row)
    row = memory.prefill_peak_bytes(shape, settings.row_tokens, element_size)
    waiting, head_waits = place_prediction(
        shape,
        weights_on_host=settings.weights_on_host,
        headroom=card - held - row,
        host=host.in_all,
        head=head_bytes(shape, settings.weights_on_host, element_size),
    )
    return _Choice(0, waiting, head_waits, row)


def fitting_tokens(
    settings: Settings, shape: Shape, card: int, host: float = math.inf, machine: Machine = ASSUMED
) -> int | None:
    """The largest half, quarter, ... of `batch_tokens` that card and host have headroom for; None if none fits."""
    tokens = settings.batch_tokens // 2
    while tokens >= settings.max_length:
        smaller = replace(settings, batch_tokens=tokens)
        if predict_needs(smaller, shape, card, host=host, machine=machine).total <= card:
            return tokens
        tokens //= 2
    return None
