"""What "auto" decides: never more than the memory there is, and all of it used."""

import math

import pytest

from taigi_lightning.planning.activation_plan import (
    EVERYTHING,
    INPUT_ONLY,
    MOVED,
    MOVED_MORE,
    RESIDUAL,
    Saving,
    kept_bytes,
    layer_bytes,
    small_bytes,
    unpacked_bytes,
)
from taigi_lightning.planning.layer_mix import Decision, decide
from taigi_lightning.planning.memory import GIB, Shape

BIG = Shape(40, 5120, 13824, 40, 40, 128, 56064)
SMALL = Shape(4, 64, 128, 4, 2, 16, 97)
TOKENS, RANK = 8192, 64
EMBEDDING = 2 * BIG.vocabulary * BIG.hidden


def auto(headroom: float, host_headroom: float = math.inf, embedding: int = EMBEDDING) -> Decision:
    return decide(
        BIG, TOKENS, RANK, budget="auto", headroom=headroom, host_headroom=host_headroom, embedding=embedding
    )


def test_the_plan_spends_its_room_on_the_last_layers() -> None:
    whole = sum(layer_bytes(SMALL, tokens=24, element_size=4).values())

    def savings(headroom: float, host_headroom: float) -> list[Saving]:
        headroom += small_bytes(SMALL, 24, 4, 4)
        given = {"budget": "auto", "headroom": headroom, "host_headroom": host_headroom, "element_size": 4}
        return decide(SMALL, 24, 4, **given).savings  # type: ignore[arg-type]

    assert savings(4 * whole, 0) == [EVERYTHING] * 4
    assert savings(0, 0) == [INPUT_ONLY] * 3 + [RESIDUAL]
    assert savings(2.9 * whole, 0)[1:] == [INPUT_ONLY] + [EVERYTHING] * 2
    assert savings(0.8 * whole, math.inf) == [MOVED] * 3 + [RESIDUAL]


@pytest.mark.parametrize("host_headroom", [0, 30 * GIB, math.inf])
@pytest.mark.parametrize("headroom", [1, 2, 4, 8, 16, 30, 37, 40, 50, 60, 80])
def test_what_auto_keeps_fits_its_room(headroom: int, host_headroom: float) -> None:
    decision = auto(headroom * GIB, host_headroom)
    device, host = kept_bytes(decision.savings, BIG, TOKENS, RANK)
    least, _ = kept_bytes(auto(0.0, host_headroom).savings, BIG, TOKENS, RANK)
    allowed = headroom * GIB + EMBEDDING * decision.embedding_on_host
    assert device + decision.unpacked * unpacked_bytes(BIG, RANK) <= max(allowed, least)
    assert host <= host_headroom


def test_more_memory_never_keeps_less() -> None:
    kept = [(d.keeping, d.unpacked) for d in (auto(headroom * GIB) for headroom in range(2, 80))]
    assert kept == sorted(kept)


def test_weights_stay_unpacked_only_in_what_all_activations_leave() -> None:
    everything = 40 * sum(layer_bytes(BIG, TOKENS).values()) + small_bytes(BIG, TOKENS, RANK)
    layer = unpacked_bytes(BIG, RANK)
    joined = 15360 * 5312 + 5120 * 5184 + 27648 * 5248 + 5120 * 13888
    frozen = (15360 + 5120 + 27648) * 5120 + 5120 * 13824
    assert layer == 2 * (joined + 64 * (3 + 1 + 2) * 5120 + 64 * 13824) - frozen // 2
    assert auto(everything - 1).unpacked == 0
    assert auto(everything + 34.5 * layer) == Decision([EVERYTHING] * 40, 34, False)
    assert auto(everything + 99 * layer).unpacked == 40
    assert decide(BIG, TOKENS, RANK, budget=1.0, headroom=math.inf, host_headroom=0).unpacked == 0


def test_the_embedding_leaves_a_card_on_which_the_least_would_not_fit() -> None:
    assert auto(0.1 * GIB).embedding_on_host
    assert not auto(0.1 * GIB, embedding=0).embedding_on_host
    assert auto(3 * GIB) == Decision([MOVED_MORE] * 38 + [EVERYTHING] * 2, 0, False)
    asked = decide(
        BIG, TOKENS, RANK, budget=0.0, headroom=80 * GIB, host_headroom=math.inf, embedding=EMBEDDING
    )
    assert asked.embedding_on_host
