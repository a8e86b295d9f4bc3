"""Masks of packed documents and windows, and what own attention is asked of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from taigi_lightning.fast_path import own_attention
from taigi_lightning.fast_path.attention import seen

B, T, HEADS, D = 2, 9, 4, 8
CPU = torch.device("cpu")


def mask_of(*rows: list[int], window: int | None = None) -> Tensor:
    """(B, T, T) of rows of documents of such lengths."""
    numbers = [torch.repeat_interleave(torch.arange(len(row)), torch.tensor(row)) for row in rows]
    return torch.stack([(n[:, None] == n) & seen(len(n), len(n), window, CPU) for n in numbers])


def counted(monkeypatch: pytest.MonkeyPatch, name: str) -> list[Any]:
    """Of a function of `own_attention`, what it is given from now on."""
    calls: list[Any] = []
    plain = getattr(own_attention, name)

    def function(*given: Any) -> Any:
        calls.append(given)
        return plain(*given)

    monkeypatch.setattr(own_attention, name, function)
    return calls
