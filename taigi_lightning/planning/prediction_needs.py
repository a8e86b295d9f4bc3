"""What a config of `predict` or `test` will need of the card; `plan_text` says it."""

from __future__ import annotations

from dataclasses import replace

from taigi_lightning.errors import InputError
from taigi_lightning.planning import memory
from taigi_lightning.planning.activation_plan import unpacked_bytes
from taigi_lightning.planning.memory import Shape
from taigi_lightning.planning.settings import Settings
from taigi_lightning.planning.training_needs import Need

ROW = "room for one pass"


def predict_needs(settings: Settings, shape: Shape, card: int | None = None, element_size: int = 2) -> Need:
    """What prediction takes on a CUDA card, and the room it keeps free for its longest row.

    Args:
        card: its bytes, the rest of which unpacked layers fill; None takes the least.

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
    room = memory.prefill_room(shape.hidden, shape.intermediate, settings.row_tokens, element_size)
    taken = projections + rest + 4 * sum(adapter) + room + memory.CONTEXT
    a_layer = unpacked_bytes(shape, rank, element_size, packed=False)  # its 4 bits stay on the card as well
    layers = 0 if card is None else max(0, min(shape.layers, (card - taken) // a_layer))
    parts = {
        "weights, projections": projections,
        "weights, the rest": rest,
        "weights, unpacked": layers * a_layer,
        "adapter": 4 * sum(adapter),
        ROW: room,
        "CUDA itself": memory.CONTEXT,
    }
    notes = {
        "weights, projections": settings.quantization,
        "weights, the rest": "16 bits: embeddings, norms",
        "weights, unpacked": f"16 bits as well, of {layers} of {shape.layers} layers, for speed",
        "adapter": f"{sum(adapter):,} parameters, 32 bits",
        ROW: f"of {settings.row_tokens:,} tokens: kept free, generously",
        "CUDA itself": "about",
    }
    return Need({name: size for name, size in parts.items() if size}, notes, host=0)


def fitting_tokens(settings: Settings, shape: Shape, card: int) -> int | None:
    """The largest half, quarter, ... of `batch_tokens` whose room the card has; None if it has none of them."""
    tokens = settings.batch_tokens // 2
    while tokens >= settings.max_length:
        if predict_needs(replace(settings, batch_tokens=tokens), shape).total <= card:
            return tokens
        tokens //= 2
    return None
