"""What a config of `predict` or `test` will need of the card."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from taigi_lightning.errors import InputError
from taigi_lightning.planning import memory
from taigi_lightning.planning.activation_plan import unpacked_bytes
from taigi_lightning.planning.earlier_stages import frozen_part
from taigi_lightning.planning.memory import Shape
from taigi_lightning.planning.needs import Decisions, Needs, Part, taken
from taigi_lightning.planning.settings import Settings
from taigi_lightning.planning.training_needs import CUDA, DEQUANTISED

ROW = "headroom for one pass"


def predict_needs(
    settings: Settings,
    shape: Shape,
    card: int | None = None,
    element_size: int = 2,
    general: str | None = None,
) -> Needs:
    """What prediction takes on a CUDA card, with the headroom for its longest row.

    Args:
        card: its bytes, the rest of which dequantised layers fill on the fast path; None takes the least.
        general: why the base's layers take the general path; None: they take the fast one.

    Raises:
        InputError: the config answers by generating text, for which nothing here counts.
    """
    if settings.answer_strategy != "choice":
        raise InputError(
            f"What answer_strategy {settings.answer_strategy} takes is not counted: its cache grows with the "
            "prompts of a batch. Plan with --model.answer_strategy choice for what the weights take."
        )
    rank = settings.rank or 0
    projections, rest = memory.weight_bytes(shape, settings.quantization, element_size)
    adapter = memory.adapter_sizes(shape, rank, settings.targets)
    row = memory.prefill_bytes(shape.hidden, shape.intermediate, settings.row_tokens, element_size)
    frozen = frozen_part(settings.ranks_beside, shape, element_size)
    held = projections + rest + frozen.bytes + 4 * sum(adapter) + row + memory.CONTEXT
    a_layer = unpacked_bytes(shape, rank, element_size, packed=False)  # its 4 bits stay on the card as well
    layers = 0
    if card is not None and general is None:
        layers = max(0, min(shape.layers, (card - held) // a_layer))
    device = [
        Part("weights, projections", projections, settings.quantization),
        Part("weights, the rest", rest, "16 bits: embeddings, norms"),
        Part(
            DEQUANTISED, layers * a_layer, f"16 bits as well, of {layers} of {shape.layers} layers, for speed"
        ),
        Part("adapter", 4 * sum(adapter), f"{sum(adapter):,} parameters, 32 bits"),
        frozen,
        Part(ROW, row, f"of {settings.row_tokens:,} tokens: kept free, generously"),
        CUDA,
    ]
    path: Literal["fast", "general"] = "fast" if general is None else "general"
    decisions = Decisions(path, general, shape.layers, layers_dequantised=layers)
    return Needs(decisions, taken(device))


def fitting_tokens(settings: Settings, shape: Shape, card: int) -> int | None:
    """The largest half, quarter, ... of `batch_tokens` that the card has headroom for; None if none fits."""
    tokens = settings.batch_tokens // 2
    while tokens >= settings.max_length:
        if predict_needs(replace(settings, batch_tokens=tokens), shape).total <= card:
            return tokens
        tokens //= 2
    return None
