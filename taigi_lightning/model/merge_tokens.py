"""Rows of tokens that an adapter brings, as a merge writes them into its base's tables."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taigi_lightning.errors import InputError
from taigi_lightning.model.lora_deltas import DELTA, PREFIX, WEIGHTS
from taigi_lightning.model.safetensors_files import TensorEntry, read_header, read_tensor
from taigi_lightning.planning.run_files import TOKEN_INDICES, adapter_config

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class RowUpdate:
    """Rows [n, H] of a table [V, H], by their tokens' ids, left on disk until asked for."""

    ids: tuple[int, ...]
    file: Path
    entry: TensorEntry

    @property
    def needed(self) -> int:
        """Rows that the table must have at least."""
        return max(self.ids) + 1

    def into(self, table: torch.Tensor) -> torch.Tensor:
        """The table with the rows, rounded to its dtype; rows that it lacks otherwise are the mean of its own."""
        import torch

        if (missing := self.needed - len(table)) > 0:
            table = torch.cat([table, mean_row(table).expand(missing, -1)])
        with self.file.open("rb") as file:
            rows = read_tensor(file, self.entry).to(table)
        return table.index_copy(0, torch.tensor(self.ids, device=table.device), rows)


def mean_row(table: torch.Tensor) -> torch.Tensor:
    """The mean [H] of a table's rows [V, H], in its dtype: what tokens begin as that nothing else is known of."""
    return table.float().mean(0).to(table.dtype)


def read_rows(adapter: Path) -> dict[str, RowUpdate]:
    """Rows of tokens that a saved adapter brings, by the weight's name in it; mostly none.

    Raises:
        InputError: the settings and the tensors do not agree.
    """
    indices = adapter_config(adapter).get(TOKEN_INDICES)
    if not indices:
        return {}
    file, found = adapter / WEIGHTS, {}
    for name, entry in read_header(file).items():
        if name.endswith(DELTA):
            module = name.removeprefix(PREFIX).removesuffix(DELTA)
            ids = indices if isinstance(indices, list) else _named(indices, module)
            if len(ids) != entry.shape[0] or min(ids) < 0:
                raise InputError(
                    f"{file} holds {entry.shape[0]} rows as {name}, but {TOKEN_INDICES} names {len(ids)} tokens for "
                    "them. Save the adapter again."
                )
            found[f"{module}.weight"] = RowUpdate(tuple(ids), file, entry)
    if not found:
        raise InputError(f"{file} holds no rows of tokens, though {TOKEN_INDICES} names some. Save it again.")
    return found


def _named(indices: Mapping[str, list[int]], module: str) -> list[int]:
    return next((ids for key, ids in indices.items() if module == key or module.endswith(f".{key}")), [-1])


def grown_config(config: bytes, rows: Mapping[str, RowUpdate]) -> bytes:
    """A base's config.json for tables that hold all the rows; as it is where they do already."""
    size = max((update.needed for update in rows.values()), default=0)
    settings: dict[str, Any] = json.loads(config)
    text = settings.get("text_config", settings)
    if size <= int(text.get("vocab_size", settings.get("vocab_size", 0))):
        return config
    for part in (text, settings):
        if "vocab_size" in part or part is text:
            part["vocab_size"] = size
    return (json.dumps(settings, indent=2, ensure_ascii=False) + "\n").encode()


def grown_index(index: Path, bytes_more: int) -> None:
    """Let an index of safetensors files tell the tables' new size."""
    found = json.loads(index.read_text(encoding="utf-8"))
    if bytes_more and "total_size" in found.get("metadata", {}):
        found["metadata"]["total_size"] += bytes_more
        index.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8", newline="\n")
