"""What the ranks of a run have found, on each of them."""

from __future__ import annotations

from typing import TypeVar

import torch

Item = TypeVar("Item")


def ranks() -> tuple[int, int]:
    """This process's rank, and how many there are."""
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return 0, 1
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def gather(items: list[Item]) -> list[Item]:
    """The items of all ranks, rank after rank; every rank must call it."""
    _, count = ranks()
    if count == 1:
        return items
    parts: list[list[Item]] = [[] for _ in range(count)]
    torch.distributed.all_gather_object(parts, items)
    return [item for part in parts for item in part]
