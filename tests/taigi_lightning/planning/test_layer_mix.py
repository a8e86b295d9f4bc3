"""How layers share card and host: what is counted is what is listed, it fits both, and hardly anything is faster."""

import math
from collections import Counter
from itertools import combinations_with_replacement
from typing import Any

import pytest

from taigi_lightning.planning.activation_plan import (
    EVERYTHING,
    INPUT_ONLY,
    MOVED,
    MOVED_INPUT,
    MOVED_MORE,
    RESIDUAL,
    kept_bytes,
    layer_bytes,
    of_family,
    small_bytes,
)
from taigi_lightning.planning.base_shape import KNOWN, gemma3
from taigi_lightning.planning.host_budget import HostBudget, wanted_available
from taigi_lightning.planning.layer_mix import Mixes
from taigi_lightning.planning.memory import GIB, Shape, packed_layer_bytes
from taigi_lightning.planning.placement import place
from taigi_lightning.planning.step_time import Machine, Pace, operations_again, part_operations, step_seconds

LLAMA, GEMMA = KNOWN["Bohanlu/Taigi-Llama-2-13B"], KNOWN["google/gemma-3-12b-it"]
QWEN = Shape(36, 4096, 12288, 32, 8, 128, 151936, head_norm=256)
SHAPES = {"13B": LLAMA, "Gemma 12B": GEMMA, "Gemma 4B": gemma3(34, 2560, 10240, 8, 4, 256), "Qwen3": QWEN}
TOKENS = 4096


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("host", [0.0, 1.7, 6.0, 99.0])
def test_what_is_counted_is_what_is_listed(shape: Shape, host: float) -> None:
    mixes, found = Mixes(shape, TOKENS), 0
    parts = part_operations(shape, TOKENS)
    for headroom in (0.3, 2.0, 7.5, 30.0):
        kept = list(mixes.within(headroom * GIB, headroom * GIB, host * GIB))
        for mix in [*kept, mixes.least(host * GIB)]:
            savings = mix.savings(shape.layers, mixes.sizes)
            assert len(savings) == shape.layers
            device, moved = kept_bytes(savings, shape, TOKENS, 0)
            log_sums = 4 * TOKENS * shape.heads * mix.keeping
            assert (mix.device, mix.host) == (device - log_sums, moved)
            assert mix.host <= host * GIB
            again = sum(operations_again(saving, parts, mixes.sizes) for saving in savings)
            assert mix.again == pytest.approx(again, rel=1e-9)
        assert all(mix.device <= headroom * GIB for mix in kept)
        found += len(kept)
    assert found


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("machine", [Machine(55e9, 700e12), Machine(13e9, 45e12), Machine(6e9, 45e12)])
def test_no_other_mix_of_six_layers_is_much_faster(shape: Shape, machine: Machine) -> None:
    """Any layer of any kind, the last ones keeping everything: what fits and is fastest takes 4 % less at most."""
    few = Shape(**{**vars(shape), "layers": 6})
    mixes, pace = Mixes(few, TOKENS), Pace(few, TOKENS, machine)
    kinds = [of_family(saving, mixes.sizes) for saving in (INPUT_ONLY, MOVED_INPUT, MOVED, MOVED_MORE)]
    kinds += [INPUT_ONLY, MOVED_INPUT] if shape.post_norms else []
    everything, residual = of_family(EVERYTHING, mixes.sizes), of_family(RESIDUAL, mixes.sizes)
    lists = [
        [*others, *[everything] * keeping] if keeping else [*others, residual]
        for keeping in range(6)
        for others in combinations_with_replacement(dict.fromkeys(kinds), 6 - max(keeping, 1))
    ]
    counted = [
        (kept_bytes(savings, few, TOKENS, 0), step_seconds(savings, 0, few, TOKENS, machine))
        for savings in lists
    ]
    for headroom in (0.35, 0.6, 1.2):
        for host in (0.0, 0.15, 0.3, 0.6, 2.0):
            fit = [s for (device, moved), s in counted if device <= headroom * GIB and moved <= host * GIB]
            best = mixes.best(headroom * GIB, host * GIB, lambda again, moved: pace.seconds(again, moved, 0))
            assert bool(fit) == (best.device <= headroom * GIB)
            if fit:
                assert pace.seconds(best.again, best.host, 0) <= 1.04 * min(fit)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_smaller_host_computes_more_again_and_never_holds_too_much(shape: Shape) -> None:
    """With all else equal more host memory is never slower, and card and host hold what is chosen."""
    slowest = math.inf
    for available in (4, 6, 7, 8, 9, 10, 12, 14, 16, 20, 24, 32, 64):
        budget = HostBudget(available * GIB, lockable=0.45 * 32 * GIB)
        found = place(
            shape, 8192, 64, weights_on_host="auto", machine=Machine(13e9, 45e12), budget="auto",
            headroom=-1.5 * GIB, host=budget, embedding=2 * shape.vocabulary * shape.hidden,
        )  # fmt: skip
        if found.fits:
            _, moved = kept_bytes(found.decision.savings, shape, 8192, 64)
            weights = found.on_host * packed_layer_bytes(shape)
            table = 2 * shape.vocabulary * shape.hidden * found.decision.embedding_on_host
            assert weights + table + moved <= min(0.8 * available * GIB, 0.45 * 32 * GIB)
            assert moved <= 0.5 * available * GIB
        assert found.seconds <= slowest + 1e-9 or not math.isfinite(slowest)
        slowest = found.seconds if found.fits else slowest
    assert math.isfinite(slowest)


def test_some_layers_move_where_the_host_has_no_memory_for_all() -> None:
    """The 13B on a card of 8 GB: before, all layers' activations moved or none."""
    sizes = layer_bytes(LLAMA, 8192)
    each, small = sizes["input"] + sizes["middle"], small_bytes(LLAMA, 8192, 64)
    host = HostBudget((40 * packed_layer_bytes(LLAMA) + 25 * each) / 0.8)
    found = place(
        LLAMA, 8192, 64, weights_on_host="all", machine=Machine(13e9, 45e12), budget="auto",
        headroom=1.4 * GIB + small - 40 * packed_layer_bytes(LLAMA), host=host,
    )  # fmt: skip
    kinds = Counter(found.decision.savings)
    assert found.fits
    assert kinds[MOVED_INPUT] > 5
    assert kinds[MOVED] > 5
    # The two are mixed evenly: no three of the rarer kind follow each other.
    rarer = min((MOVED_INPUT, MOVED), key=lambda kind: kinds[kind])
    assert all(found.decision.savings[n : n + 3] != [rarer] * 3 for n in range(40))


def test_ranks_share_what_the_host_has_and_hold_its_weights_once() -> None:
    one, two = (HostBudget(32 * GIB, ranks=ranks) for ranks in (1, 2))
    assert one.activations(8 * GIB, GIB) == pytest.approx(16 * GIB)
    assert two.activations(8 * GIB, GIB) == pytest.approx((25.6 - 8) / 2 * GIB - GIB)
    assert HostBudget(32 * GIB, lockable=10 * GIB).activations(8 * GIB, GIB) == pytest.approx(GIB)
    assert HostBudget(32 * GIB, most=2 * GIB).activations(8 * GIB, GIB) == pytest.approx(2 * GIB)
    assert HostBudget(4 * GIB).activations(8 * GIB, 0.0) < 0
    assert HostBudget().activations(8 * GIB, GIB) == math.inf
    assert wanted_available(8 * GIB, 8 * GIB) == 20 * GIB


def test_the_embedding_leaves_whatever_activations_may_and_only_where_the_host_holds_it() -> None:
    table = 2 * LLAMA.vocabulary * LLAMA.hidden
    given: dict[str, Any] = {
        "weights_on_host": "none", "machine": Machine(13e9, 45e12), "headroom": 20 * GIB, "embedding": table,
    }  # fmt: skip
    for budget, host, moves in (
        (0.0, HostBudget(most=0.0), True),
        (0.0, HostBudget(0.1 * GIB), False),
        ("auto", HostBudget(), False),
    ):
        found = place(LLAMA, 8192, 64, budget=budget, host=host, **given)
        assert found.decision.embedding_on_host == moves
        assert host.most != 0.0 or not found.decision.savings[0].host


@pytest.mark.parametrize(("budget", "kept"), [(1.0, 40), (0.5, 18), (0.0, 0)])
@pytest.mark.parametrize("headroom", [1, 40, 400])
def test_a_share_that_was_asked_for_is_kept_or_does_not_fit(budget: float, kept: int, headroom: int) -> None:
    found = place(
        LLAMA, 8192, 64, weights_on_host="none", machine=Machine(55e9, 700e12), budget=budget,
        headroom=headroom * GIB, host=HostBudget(),
    )  # fmt: skip
    assert kept <= found.decision.keeping <= kept + 2
    assert found.fits == (headroom >= {1.0: 40, 0.5: 40, 0.0: 1}[budget])
