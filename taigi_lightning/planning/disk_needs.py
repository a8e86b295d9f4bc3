"""What a config fetches and leaves on disk."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub.constants import HF_HUB_CACHE

from taigi_lightning.planning import memory
from taigi_lightning.planning.base_shape import is_cached
from taigi_lightning.planning.disk import run_bytes
from taigi_lightning.planning.memory import Shape
from taigi_lightning.planning.settings import Settings
from taigi_lightning.planning.strong_part import checkpoint_bytes
from taigi_lightning.planning.trained_sizes import trained_sizes, with_new_tokens


def disk_needs(settings: Settings, shape: Shape) -> dict[str, dict[str, int]]:
    """Bytes a run fetches or leaves, by folder and purpose."""
    base, shape = shape, with_new_tokens(settings, shape)
    sizes = trained_sizes(settings, shape)
    needed = {
        settings.folder: run_bytes(
            adapter=4 * sum(sizes),
            optimizer=memory.optimizer_bytes(settings.optimizer, sizes),
            checkpoints=max(settings.checkpoints, 0),
            merged=2 * shape.parameters if settings.merge else 0,
            directions=checkpoint_bytes(settings.matmul, base),
        )
    }
    return download_needs(settings.base, base) | needed


def download_needs(base: str, shape: Shape) -> dict[str, dict[str, int]]:
    """Bytes of a base that is still to be fetched, by folder and purpose; empty if it is here."""
    if Path(base).is_dir() or is_cached(base):
        return {}
    return {HF_HUB_CACHE: {f"download of {base}": 2 * shape.parameters}}
