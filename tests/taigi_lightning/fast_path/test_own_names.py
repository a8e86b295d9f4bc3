"""Modules whose forward pass finds another value under a global name, each by itself."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from taigi_lightning.fast_path.own_names import mean_instead

FACTOR = 2.0


class Scaled(nn.Module):
    """As an attention of transformers looks up its functions."""

    def forward(self, x: Tensor) -> Tensor:
        return x * FACTOR


def meaning(value: float) -> Scaled:
    module = Scaled()
    assert mean_instead(module, "FACTOR", lambda _: value)
    return module


def by_itself(module: nn.Module) -> Callable[[Tensor], Tensor]:
    return module


def compiled(module: nn.Module) -> Callable[[Tensor], Tensor]:
    """By the code object of its pass: modules of one class may share what was made of it."""
    return torch.compile(module.forward, backend="eager", dynamic=True)  # type: ignore[no-any-return]


@pytest.mark.parametrize("way", [by_itself, compiled])
def test_each_module_finds_its_own(way: Callable[[nn.Module], Callable[[Tensor], Tensor]]) -> None:
    torch.compiler.reset()
    passes = [way(module) for module in (meaning(3.0), meaning(5.0), Scaled(), meaning(7.0))]
    for x in (torch.ones(2), torch.ones(3)):
        assert [float(forward(x)[0]) for forward in passes] == [3.0, 5.0, 2.0, 7.0]


def test_what_is_not_there_or_not_ours_is_left() -> None:
    other = Scaled()
    other.forward = lambda x: x  # type: ignore[method-assign]
    assert not mean_instead(other, "FACTOR", lambda _: 1.0)
    assert not mean_instead(Scaled(), "NOWHERE", lambda _: 1.0)
    assert not mean_instead(Scaled(), "FACTOR", lambda _: None)
    module = meaning(3.0)
    assert not mean_instead(module, "FACTOR", lambda _: 4.0)  # once is enough
    assert float(module(torch.ones(1))) == 3.0
