"""Where weights wait: on the card while everything fits it, and else where a step takes least time."""

import math
from itertools import pairwise
from typing import Any

import pytest

from taigi_lightning.fast_path.machine_speed import SUSTAINED
from taigi_lightning.planning import activation_plan
from taigi_lightning.planning.activation_plan import (
    EVERYTHING,
    INPUT_ONLY,
    MOVED,
    MOVED_MORE,
    OUTPUT,
    RESIDUAL,
    kept_bytes,
)
from taigi_lightning.planning.host_budget import HOST_SHARE, HostBudget
from taigi_lightning.planning.layer_mix import decide, spread
from taigi_lightning.planning.memory import (
    GIB,
    PROJECTIONS,
    Shape,
    adapter_sizes,
    packed_layer_bytes,
    weight_bytes,
)
from taigi_lightning.planning.placement import Placement, place, place_prediction, slot_bytes
from taigi_lightning.planning.step_time import Machine, part_operations, step_seconds

BIG = Shape(40, 5120, 13824, 40, 40, 128, 56064)
TOKENS, RANK = 8192, 64
EMBEDDING = 2 * BIG.vocabulary * BIG.hidden
FAST, SLOW_LINK = Machine(55e9, 700e12), Machine(3e9, 700e12)


def holding(size: float) -> HostBudget:
    """A host that has so many bytes for all that leaves the device."""
    return HostBudget(size / HOST_SHARE)


def placed(headroom: float, **changes: Any) -> Placement:
    given: dict[str, Any] = {
        "weights_on_host": "auto", "machine": FAST, "budget": "auto",
        "headroom": headroom * GIB, "host": HostBudget(), "embedding": EMBEDDING,
    }  # fmt: skip
    return place(BIG, TOKENS, RANK, **given | changes)


@pytest.mark.parametrize("headroom", [46, 55, 80])
def test_where_every_activation_fits_the_plan_is_that_of_resident_weights(headroom: int) -> None:
    found = placed(headroom)
    assert found.on_host == 0
    assert found.decision == decide(
        BIG, TOKENS, RANK, budget="auto", headroom=headroom * GIB, host_headroom=math.inf, embedding=EMBEDDING
    )


@pytest.mark.parametrize("headroom", [-4, -3, 0, 2, 8, 16, 30, 40])
def test_what_is_chosen_fits_and_costs_no_more_than_resident_weights(headroom: int) -> None:
    found, resident = placed(headroom), placed(headroom, weights_on_host="none")
    device, _ = kept_bytes(found.decision.savings, BIG, TOKENS, RANK)
    freed = found.on_host * packed_layer_bytes(BIG) - slot_bytes(BIG, found.on_host)
    freed += EMBEDDING if found.decision.embedding_on_host else 0
    assert found.fits
    assert device <= headroom * GIB + freed
    assert not resident.fits or found.seconds <= resident.seconds


HEAD = 2 * 262208 * 5376
GEMMA = Shape(62, 5376, 21504, 32, 16, 128, 262208, tied=True, head_norm=256, norms=4, post_norms=True)


def headroom_of_27b(card: float, tokens: int = TOKENS) -> float:
    """With an adapter of r 16, its gradients and a state of 8 bits."""
    taken = sum(weight_bytes(GEMMA, "nf4")) + 10 * sum(adapter_sizes(GEMMA, 16, PROJECTIONS))
    return activation_plan.headroom_left(card * GIB, taken, GEMMA, tokens)


def test_the_head_leaves_where_nothing_fits_otherwise_and_only_there() -> None:
    given: dict[str, Any] = {
        "weights_on_host": "auto", "machine": FAST, "budget": "auto", "host": HostBudget(), "head": HEAD,
    }  # fmt: skip
    cards = [4.0 + n / 2 for n in range(30)]
    found = [place(GEMMA, 2048, 16, **given | {"headroom": headroom_of_27b(card, 2048)}) for card in cards]
    moves = [one.head_on_host for one in found]
    assert moves == sorted(moves, reverse=True)
    fits = [one.fits for one in found]
    assert fits == sorted(fits)
    first = fits.index(True)
    assert moves[first], "a smaller card is enough with it there"
    assert not moves[-1]
    without = [
        place(GEMMA, 2048, 16, **given | {"headroom": headroom_of_27b(c, 2048), "head": 0}) for c in cards
    ]
    for one, other in zip(found, without, strict=True):
        assert one == other if other.fits else not one.fits or one.head_on_host
    # The host must hold it too.
    tight = packed_layer_bytes(GEMMA) * GEMMA.layers + HEAD // 2
    headroom = headroom_of_27b(cards[first], 2048)
    assert not place(GEMMA, 2048, 16, **given | {"headroom": headroom, "host": holding(tight)}).fits


@pytest.mark.parametrize(
    ("headroom", "waiting", "head"),
    [(1.0, 0, False), (0.0, 0, False), (-1.0, 9, False), (-5.61, 40, False), (-6.5, 40, True)],
)
def test_in_prediction_as_few_layers_wait_as_the_card_needs_and_the_head_last(
    headroom: float, waiting: int, head: bool
) -> None:
    given: dict[str, Any] = {
        "weights_on_host": "auto",
        "headroom": headroom * GIB,
        "host": math.inf,
        "head": HEAD,
    }
    assert place_prediction(BIG, **given) == (waiting, head)
    assert place_prediction(BIG, **given | {"weights_on_host": "all"})[0] == 40
    assert place_prediction(BIG, **given | {"weights_on_host": "none"})[0] == 0
    assert place_prediction(BIG, **given | {"host": 8 * packed_layer_bytes(BIG)})[0] <= 8
    assert place_prediction(BIG, **given | {"packed": False})[0] == 0


def test_a_link_too_slow_to_hide_carries_less() -> None:
    machines = (FAST, SLOW_LINK, Machine(0.5e9, 700e12))
    weights = [placed(8.25, machine=m, host=HostBudget(most=0.0)).on_host for m in machines]
    assert weights[0] > weights[1] > weights[2] == 0
    # Nor does it carry activations that are made again sooner, wherever the weights are.
    fast, slow, slowest = (placed(8.25, machine=m) for m in machines)
    assert fast.on_host > slow.on_host >= slowest.on_host == 0
    moved = [kept_bytes(one.decision.savings, BIG, TOKENS, RANK)[1] for one in (fast, slow, slowest)]
    assert moved[0] > 5 * moved[1] > 5 * moved[2]
    assert fast.decision.savings[0] == MOVED_MORE
    assert slowest.decision.savings[0] == INPUT_ONLY


def test_weights_leave_a_card_that_they_would_fill_however_slow_the_link() -> None:
    assert not placed(-4, weights_on_host="none").fits
    found = placed(-4, machine=Machine(0.5e9, 700e12))
    assert found.fits
    assert found.on_host > 20


def test_the_host_holds_what_it_has_room_for() -> None:
    layer = packed_layer_bytes(BIG)
    found = placed(8, host=holding(20.5 * layer))
    assert 0 < found.on_host <= 20
    assert kept_bytes(found.decision.savings, BIG, TOKENS, RANK)[1] <= 20.5 * layer - found.on_host * layer
    assert placed(8, host=holding(0)).on_host == 0


def test_a_budget_that_was_asked_for_moves_only_what_does_not_fit() -> None:
    assert placed(8, budget=0.0).on_host == 0
    assert placed(-2, budget=0.0).on_host == min(
        n for n in range(3, 41) if placed(-2, budget=0.0, weights_on_host=n).fits
    )


def test_an_option_forces_it() -> None:
    assert placed(80, weights_on_host="all").on_host == 40
    assert placed(-4, weights_on_host="none").on_host == 0
    assert placed(80, weights_on_host=7).on_host == 7
    assert placed(8, packed=False).on_host == 0


@pytest.mark.parametrize(("layers", "count"), [(40, 40), (40, 17), (5, 3), (3, 1), (8, 0)])
def test_layers_on_the_host_are_spread_evenly(layers: int, count: int) -> None:
    found = spread(layers, count)
    assert len(set(found)) == count
    gaps = [b - a for a, b in pairwise(found)]
    assert all(0 <= layer < layers for layer in found)
    assert max(gaps, default=0) - min(gaps, default=0) <= 1


def test_copies_cost_time_only_where_they_do_not_hide() -> None:
    everything = [EVERYTHING] * 40
    resident = step_seconds(everything, 0, BIG, TOKENS, FAST)
    assert resident < step_seconds(everything, 40, BIG, TOKENS, FAST) < 1.01 * resident
    weights = 40 * packed_layer_bytes(BIG)
    slow = step_seconds(everything, 40, BIG, TOKENS, Machine(1e9, 700e12))
    assert slow == pytest.approx(2 * weights / 1e9, rel=0.01)
    parts = part_operations(BIG, TOKENS)
    again = step_seconds([INPUT_ONLY] * 40, 0, BIG, TOKENS, FAST) - resident
    assert again == pytest.approx(40 * (sum(parts.values()) - parts[OUTPUT]) / FAST.rate)
    assert step_seconds([RESIDUAL] * 40, 0, BIG, TOKENS, FAST) < resident + again
    assert step_seconds([MOVED] * 40, 0, BIG, TOKENS, Machine(1e9, 700e12)) > 10 * resident


# The 13B on an H200, 4 x 2048 tokens (tests/benchmarks/LOG.md): seconds of a step, the loss among them.
MEASURED = [
    (55.3e9, 40, [MOVED] * 39 + [RESIDUAL], 1.075),
    (55.3e9, 39, [MOVED_MORE] * 31 + [EVERYTHING] * 9, 0.952),
    (55.3e9, 36, [MOVED_MORE] * 22 + [EVERYTHING] * 18, 0.913),
]


@pytest.mark.parametrize(("link", "on_host", "savings", "seconds"), MEASURED)
def test_a_step_takes_longer_than_at_the_rate_of_a_burst(
    link: float, on_host: int, savings: list[Any], seconds: float
) -> None:
    """What is counted is nearer to what was measured, and still no slower than that."""
    burst, counted = (
        step_seconds(savings, on_host, BIG, TOKENS, Machine(link, share * 810e12))
        for share in (1.0, SUSTAINED)
    )
    assert burst < counted < seconds
    assert seconds - counted < 0.67 * (seconds - burst)
