"""What a config of `predict` or `test` will need of the card."""

from __future__ import annotations

import math
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
    DEQUANTISED,
    HEAD,
    IN_TRANSIT,
    WAITING,
    cuda_part,
    host_budget,
    loading_bytes,
)

ROW = "headroom for one pass"


def predict_needs(
    settings: Settings,
    shape: Shape,
    card: int | None = None,
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
    held, a_layer = _held(settings, shape, general), _dequantised_layer(settings, shape)
    fast_card = None if general else card
    choice = _choose(settings, shape, held, fast_card, a_layer, host_budget(settings, host, machine))
    path: Literal["fast", "general"] = "fast" if general is None else "general"
    times = [prefill_seconds(n, shape, settings.row_tokens, machine) for n in (choice.waiting, 0)]
    decisions = Decisions(
        path, general, shape.layers, layers_dequantised=choice.dequantised, head_on_host=choice.head_waits,
        layers_on_host=choice.waiting, slow_down=times[0] / times[1], kept_slow_down=times[0] / times[1],
    )  # fmt: skip
    away, head = _away(settings, shape, choice)
    on_host = [
        Part(WAITING, away, f"4 bits, of {choice.waiting} of {shape.layers} layers"),
        Part(HEAD, settings.devices * head),
    ]
    parts = _on_card(settings, shape, held, a_layer, choice)
    return Needs(decisions, taken(parts), taken(on_host), loading=loading_bytes(settings, shape, fast_card))


class _Held(NamedTuple):
    """Bytes of what the card holds whatever the row: the base's two parts, the adapter and what stays beside."""

    projections: int
    rest: int
    adapter: int
    frozen: Part
    strong: Part

    @property
    def total(self) -> int:
        """With CUDA's own."""
        beside = self.frozen.bytes + self.strong.bytes + memory.CONTEXT
        return self.projections + self.rest + self.adapter + beside


def _held(settings: Settings, shape: Shape, general: str | None) -> _Held:
    size = settings.element_size
    projections, rest = memory.weight_bytes(shape, settings.quantization, size)
    return _Held(
        projections,
        rest,
        4 * sum(memory.adapter_sizes(shape, settings.rank or 0, settings.targets)),
        frozen_part(settings.ranks_beside, shape, size),
        strong_part("bf16" if general else settings.matmul, shape, size),
    )


def _dequantised_layer(settings: Settings, shape: Shape) -> int:
    """Bytes of one layer held dequantised; its 4 bits stay on the card as well."""
    size = held_size(settings.matmul, settings.element_size, backward=False)
    rank = settings.rank or 0
    return unpacked_bytes(shape, rank, settings.element_size, packed=False, weight_size=size)


def _away(settings: Settings, shape: Shape, choice: _Choice) -> tuple[int, int]:
    """Bytes of packed weights, and of the output head, that wait on the host."""
    head = head_bytes(shape, "all", settings.element_size) if choice.head_waits else 0
    return choice.waiting * memory.packed_layer_bytes(shape), head


def _on_card(settings: Settings, shape: Shape, held: _Held, a_layer: int, choice: _Choice) -> list[Part]:
    away, head = _away(settings, shape, choice)
    wide = 8 * settings.element_size
    bits = 8 if forward_in_8_bits(settings.matmul) else wide
    kept = "at its peak" if choice.waiting else "kept free, generously"
    return [
        Part("weights, projections", held.projections - away, settings.quantization),
        Part("weights, the rest", held.rest - head, f"{wide} bits: embeddings, norms"),
        Part(IN_TRANSIT, slot_bytes(shape, choice.waiting), "two layers, on their way from the host"),
        Part(
            DEQUANTISED,
            choice.dequantised * a_layer,
            f"{bits} bits as well, of {choice.dequantised} of {shape.layers} layers, for speed",
        ),
        Part("adapter", held.adapter, f"{held.adapter // 4:,} parameters, 32 bits"),
        held.frozen,
        held.strong,
        Part(ROW, choice.row, f"of {settings.row_tokens:,} tokens: {kept}"),
        cuda_part(settings),
    ]


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
    settings: Settings, shape: Shape, held: _Held, card: int | None, a_layer: int, host: HostBudget
) -> _Choice:
    """What `prefill.unpack_what_fits` will decide, on a card that holds so many bytes beside a row."""
    size, tokens, taken_already = settings.element_size, settings.row_tokens, held.total
    row = memory.prefill_bytes(shape.hidden, shape.intermediate, tokens, size)
    may_wait = settings.quantization == "nf4" and settings.weights_on_host not in ("none", 0)
    if card is None or not may_wait or (settings.weights_on_host == "auto" and taken_already + row <= card):
        layers = 0 if card is None else max(0, min(shape.layers, (card - taken_already - row) // a_layer))
        return _Choice(layers, 0, False, row)
    row = memory.prefill_peak_bytes(shape, tokens, size)
    waiting, head_waits = place_prediction(
        shape,
        weights_on_host=settings.weights_on_host,
        headroom=card - taken_already - row,
        host=host.in_all,
        head=head_bytes(shape, settings.weights_on_host, size),
    )
    return _Choice(0, waiting, head_waits, row)
