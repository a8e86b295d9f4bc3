"""Which tensors a config trains, and how large they are."""

from __future__ import annotations

from dataclasses import replace

from taigi_lightning.planning import memory
from taigi_lightning.planning.memory import Shape
from taigi_lightning.planning.settings import Settings


def with_new_tokens(settings: Settings, shape: Shape) -> Shape:
    """The base with its tables as long as they become at most: where words are tokens already, they stay shorter."""
    return replace(shape, vocabulary=shape.vocabulary + settings.new_tokens)


def trained_sizes(settings: Settings, shape: Shape) -> list[int]:
    """Elements of each tensor that trains."""
    if settings.from_scratch:
        return [shape.parameters]
    adapter = memory.adapter_sizes(shape, settings.rank or 0, settings.targets)
    return adapter + memory.token_row_sizes(shape, settings.new_tokens)
