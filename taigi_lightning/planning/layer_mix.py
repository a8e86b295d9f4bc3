"""How layers share the memory there is: which keep their activations, which move them to the host, which recompute.

Layers that keep everything are the last ones, whose backward passes come first. The others are of at most two kinds,
evenly mixed, so that copies hide behind the computation of layers that move less.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

from taigi_lightning.planning.activation_plan import (
    EVERYTHING,
    INPUT_ONLY,
    MOVED,
    MOVED_INPUT,
    MOVED_MORE,
    OUTPUT,
    RESIDUAL,
    Saving,
    hole_bytes,
    keeps_everything,
    layer_bytes,
    moved_bytes,
    of_family,
    small_bytes,
    unpacked_bytes,
)
from taigi_lightning.planning.memory import Shape
from taigi_lightning.planning.step_time import operations_again, part_operations

# Of operations that are made again and bytes that move, the less the better.
Cost = Callable[[float, float], float]


@dataclass(frozen=True)
class Decision:
    """What each layer saves, how many layers' weights stay dequantised, whether the input embedding moves."""

    savings: list[Saving]
    unpacked: int
    embedding_on_host: bool

    @property
    def keeping(self) -> int:
        """Layers that keep everything."""
        return sum(keeps_everything(saving) for saving in self.savings)


class _Kind(NamedTuple):
    """What one layer of a kind takes and costs: bytes of device and host, floating-point operations made again."""

    saving: Saving
    device: int
    host: int
    again: float


class Mix(NamedTuple):
    """So many layers keep everything, of the others so many are of the second kind, all other of the first.

    Beside it, of all layers: bytes of the device with what is on its way, bytes of the host, operations made again.
    """

    keeping: int
    more: int
    first: Saving
    second: Saving
    device: int
    host: int
    again: float

    def savings(self, layers: int, sizes: dict[str, int]) -> list[Saving]:
        """What each layer saves. Where none keeps everything the last one recomputes little: its turn comes at once."""
        last = [of_family(EVERYTHING, sizes)] * self.keeping or [of_family(RESIDUAL, sizes)]
        others = layers - len(last)
        second = set(spread(others, min(self.more, others)))
        return [self.second if layer in second else self.first for layer in range(others)] + last


def spread(layers: int, count: int) -> list[int]:
    """Which of some layers are chosen: evenly spread, so that each copy hides behind as much computation.

    >>> spread(8, 4), spread(3, 3)
    ([1, 3, 5, 7], [0, 1, 2])
    """
    return [(2 * n + 1) * layers // (2 * count) for n in range(count)]


class Mixes:
    """The mixes of a shape's layers for micro-batches of some tokens, small tensors aside (`small_bytes`)."""

    def __init__(self, shape: Shape, tokens: int, element_size: int = 2) -> None:
        self.layers, self.sizes = shape.layers, layer_bytes(shape, tokens, element_size)
        parts = part_operations(shape, tokens)

        def kind(saving: Saving, bare: bool = False) -> _Kind:
            saving = saving if bare else of_family(saving, self.sizes)
            device = sum(self.sizes[name] for name in saving.device)
            again = operations_again(saving, parts, self.sizes)
            return _Kind(saving, device, moved_bytes(saving, self.sizes), again)

        self.everything, self.residual = kind(EVERYTHING), kind(RESIDUAL)
        inputs, moved_input, moved = kind(INPUT_ONLY), kind(MOVED_INPUT), kind(MOVED)
        self.most = kind(MOVED_MORE)
        self.pairs = [(inputs, moved_input), (moved_input, moved), (moved, self.most)]
        if OUTPUT in self.sizes:  # as little as can be kept: what the last norm reads is made again as well
            bare, bare_moved = kind(INPUT_ONLY, bare=True), kind(MOVED_INPUT, bare=True)
            self.pairs += [(bare, bare_moved), (bare, inputs), (bare_moved, moved_input)]

    @cached_property
    def all_kept(self) -> Mix:
        """Every layer keeps everything."""
        whole = self.everything
        return Mix(self.layers, 0, whole.saving, whole.saving, self.layers * whole.device, 0, 0.0)

    def within(self, headroom: float, filled: float, host_headroom: float) -> Iterator[Mix]:
        """The mixes that device and host have headroom for: of each pair of kinds and each count of the second, the one
        in which as many layers keep everything as may.

        Args:
            headroom: bytes of the device.
            filled: bytes of it that layers which keep everything may fill.
            host_headroom: bytes of the host.
        """
        if filled >= self.all_kept.device:
            yield self.all_kept
            return
        for first, second in self.pairs:
            for more in self._counts(first, second, headroom):
                if more and second is self.most and 2 * second.host > filled:
                    break  # its copies alone would take what others could keep
                mix = self._filled(first, second, more, filled)
                if mix.host <= host_headroom and mix.device <= headroom:
                    yield mix

    def _counts(self, first: _Kind, second: _Kind, headroom: float) -> range:
        """How many of the second kind there may be, by the device, if no layer keeps everything; one more at each end,
        where what is on its way differs and the last layer keeps a little more."""
        step = first.device - second.device
        if math.isinf(headroom):
            return range(self.layers + 1)
        lacking = self.layers * first.device + 2 * min(first.host, second.host) - headroom
        if step > 0:
            return range(max(0, int(lacking // step) - 1), self.layers + 1)
        if lacking > 0:
            return range(0)
        return range(self.layers + 1 if not step else min(self.layers, int(lacking // step) + 1) + 1)

    def least(self, host_headroom: float) -> Mix:
        """The mix that takes least of the device, of those that the host has headroom for."""
        found = []
        for first, second in self.pairs:
            step = second.host - first.host
            most = int((host_headroom - self.layers * first.host) // step) if step > 0 else 0
            counts = {0, self.layers, *(max(0, min(self.layers, n)) for n in (most, most + 1))}
            found += [self._filled(first, second, more, 0.0) for more in counts]
        allowed = [mix for mix in found if mix.host <= host_headroom]
        return min(allowed, key=lambda mix: (mix.device, mix.host))

    def _filled(self, first: _Kind, second: _Kind, more: int, headroom: float) -> Mix:
        whole, layers = self.everything, self.layers
        in_flight = 2 * (max(first.host, second.host) if more else first.host)
        used = [first, second] if more else [first]
        holes = hole_bytes((kind.saving for kind in used), self.sizes)
        device = in_flight + holes + (layers - more) * first.device + more * second.device
        keeping = max(0, min(layers - more, int((headroom - device) // (whole.device - first.device))))
        rest = layers - more - keeping
        device += keeping * (whole.device - first.device)
        host = rest * first.host + more * second.host
        again = rest * first.again + more * second.again
        counts = [rest, more]
        if not keeping:  # the last layer is another, of the first kind where there are any
            counts[0 if rest else 1] -= 1
            last = first if rest else second
            device += self.residual.device - last.device
            host -= last.host
            again += self.residual.again - last.again
        left = [kind.saving for kind, count in zip((first, second), counts, strict=True) if count]
        device -= holes - hole_bytes(left, self.sizes)
        return Mix(keeping, more, first.saving, second.saving, device, host, again)

    def best(self, headroom: float, host_headroom: float, cost: Cost) -> Mix:
        """The mix that costs least of those that fit; if none does, the one that takes least of the device.

        Args:
            headroom, host_headroom: as for `within`.
            cost: of operations made again and bytes moved.
        """
        headroom, host_headroom = self._bounded(headroom, host_headroom)
        fitting = self.within(headroom, headroom, host_headroom)
        best = min(fitting, key=lambda mix: (cost(mix.again, mix.host), mix.host), default=None)
        return self.least(host_headroom) if best is None else best

    def best_share(self, share: float, headroom: float, host_headroom: float, cost: Cost) -> Mix:
        """The same of those that keep a share of all activations on the device, whether that fits or not."""
        headroom, host_headroom = self._bounded(headroom, host_headroom)
        filled = share * self.all_kept.device
        if filled >= self.all_kept.device:
            return self.all_kept
        wanted = self._filled(*self.pairs[0], 0, filled).keeping - 1  # what is on its way may take as much
        kept = [mix for mix in self.within(math.inf, filled, host_headroom) if mix.keeping >= wanted]
        fitting = [mix for mix in kept if mix.device <= headroom]
        if not fitting and not share:
            return self.least(host_headroom)
        return min(fitting or kept, key=lambda mix: (cost(mix.again, mix.host), mix.host))

    def _bounded(self, headroom: float, host_headroom: float) -> tuple[float, float]:
        """Neither is without end, as on a CPU or in a plan, nor less than nothing on the host."""
        most = 1.0 * self.layers * self.most.host
        return min(headroom, 2.0 * self.all_kept.device), min(max(0.0, host_headroom), most)


class Choice(NamedTuple):
    """A mix, how many layers' weights stay dequantised, whether the embedding moves, bytes that the device lacks."""

    mix: Mix
    unpacked: int
    embedding_on_host: bool
    lacking: float


def choose(
    mixes: Mixes,
    *,
    budget: float | Literal["auto"],
    headroom: float,
    host_headroom: float,
    host_left: float,
    embedding: int,
    a_layer: int,
    cost: Cost,
) -> Choice:
    """As `decide`, of mixes that were counted before.

    Args:
        headroom: bytes of the device, without small tensors.
        host_left: bytes of the host that activations and the embedding may take together.
        a_layer: bytes of a layer's weights dequantised.
    """

    def best(table: int) -> tuple[Mix, float]:
        """The mix with so many bytes of the embedding on the host, and what of the device it lacks."""
        given = headroom + table, min(host_headroom, host_left - table), cost
        mix = mixes.best(*given) if budget == "auto" else mixes.best_share(budget, *given)
        return mix, mix.device - given[0]

    may_move = 0 < embedding <= host_left
    if budget != "auto":
        moves = may_move and budget == 0.0
        mix, lacking = best(embedding if moves else 0)
        return Choice(mix, 0, moves, lacking)
    mix, lacking = best(0)
    moves = may_move and lacking > 0
    if moves:
        mix, lacking = best(embedding)
    spare = max(0.0, headroom - mixes.all_kept.device) / a_layer
    return Choice(mix, int(min(mixes.layers, spare)), moves, lacking)


def decide(
    shape: Shape,
    tokens: int,
    rank: int,
    *,
    budget: float | Literal["auto"],
    headroom: float,
    host_headroom: float,
    embedding: int = 0,
    element_size: int = 2,
    packed: bool = True,
    weight_size: int | None = None,
    cost: Cost = lambda again, _: again,
) -> Decision:
    """What to do with the device's memory.

    Args:
        budget: the share of all activations kept on the device, or "auto": what `headroom` holds.
        headroom: `activation_plan.headroom_left`.
        host_headroom: bytes of the host that activations may take.
        embedding: bytes of the input embedding if it may move to the host. It does with a budget of 0, and
            with "auto" where the layers could not keep the little that they must.
        packed: the base is in 4 bits.
        weight_size: as for `unpacked_bytes`.
        cost: what is to be least, of operations that are made again and of bytes that move; without it the former.

    Returns:
        Where "auto" finds more headroom than all activations take, weights stay dequantised in the rest.
    """
    mixes = Mixes(shape, tokens, element_size)
    choice = choose(
        mixes, budget=budget, headroom=headroom - small_bytes(shape, tokens, rank, element_size),
        host_headroom=host_headroom, host_left=math.inf, embedding=embedding, cost=cost,
        a_layer=unpacked_bytes(shape, rank, element_size, packed, weight_size),
    )  # fmt: skip
    savings = choice.mix.savings(shape.layers, mixes.sizes)
    return Decision(savings, choice.unpacked, choice.embedding_on_host)
