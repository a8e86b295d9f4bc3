"""What an 8 GB card with a small host is told: bytes are counted again here, and what is advised fits."""

from dataclasses import replace

import pytest

from taigi_lightning.planning import activation_plan
from taigi_lightning.planning.activation_plan import LOOSE_MARGIN, layer_bytes, transient_bytes
from taigi_lightning.planning.base_shape import KNOWN, gemma3
from taigi_lightning.planning.cards import Card
from taigi_lightning.planning.host_budget import HOST_SHARE, PROCESS
from taigi_lightning.planning.memory import (
    CONTEXT,
    GIB,
    PROJECTIONS,
    Shape,
    adapter_sizes,
    optimizer_bytes,
    weight_bytes,
)
from taigi_lightning.planning.needing_less import fits, fitting, wanted_host
from taigi_lightning.planning.plan import Found, make_plan
from taigi_lightning.planning.plan_text import render
from taigi_lightning.planning.settings import Settings
from taigi_lightning.planning.step_time import ASSUMED
from taigi_lightning.planning.training_needs import needs
from tests.taigi_lightning.planning.test_command import ROOT
from tests.taigi_lightning.planning.test_plan import one_disk

SHAPES = {
    "Taigi-Llama-2-13B": KNOWN["Bohanlu/Taigi-Llama-2-13B"],
    "Gemma 3 12B": KNOWN["google/gemma-3-12b-it"],
    "Gemma 3 4B": gemma3(34, 2560, 10240, 8, 4, 256),
    "Qwen3-8B": Shape(36, 4096, 12288, 32, 8, 128, 151936, head_norm=256),
    "Llama-3.1-8B": Shape(32, 4096, 14336, 32, 8, 128, 128256),
}
# The READMEs say the same.
FREE = {16: 10, 24: 18, 32: 26}  # GiB of a host that a desktop and a browser leave
ONE_ROW = "--data.batch_size 1 --trainer.accumulate_grad_batches 16"
ROWS = {  # by installed memory of the host, on Linux
    ("Taigi-Llama-2-13B", 16): ONE_ROW,
    ("Gemma 3 12B", 16): ONE_ROW,
}
CPT = Settings(rank=64, accumulate=4, max_steps=1000, folder="models/cpt_model")
CARD = 8 * GIB


def least(shape: Shape, settings: Settings) -> int:
    """Bytes that must lie somewhere, on the card or on the host, if every layer keeps its input alone."""
    trained = adapter_sizes(shape, 64, PROJECTIONS)
    held = sum(weight_bytes(shape, "nf4")) + 8 * sum(trained) + optimizer_bytes(settings.optimizer, trained)
    inputs = shape.layers * layer_bytes(shape, settings.tokens)["input"]
    passing = min(transient_bytes(shape, settings.tokens, 2, head) for head in (False, True))
    return held + CONTEXT + inputs + passing


@pytest.mark.parametrize("windows", [False, True])
@pytest.mark.parametrize("installed", FREE)
@pytest.mark.parametrize("base", SHAPES)
def test_what_an_8_gb_card_is_told(
    monkeypatch: pytest.MonkeyPatch, base: str, installed: int, windows: bool
) -> None:
    shape, host, machine = SHAPES[base], FREE[installed] * GIB, ASSUMED
    if windows:  # where less may be page-locked, and memory of the card has holes
        machine = replace(ASSUMED, lockable=0.45 * installed * GIB)
        monkeypatch.setattr(activation_plan, "system_margin", lambda: LOOSE_MARGIN)
    plan = make_plan(
        CPT, shape, Found(Card("a card", CARD), machine=machine, host_bytes=host, disks=one_disk(GIB))
    )
    wanted = ROWS.get((base, installed))
    wanted = ONE_ROW if wanted is not None and windows else wanted
    assert " ".join(plan.advice) == (wanted or "")
    assert plan.fits == (wanted is None)
    if wanted is None:
        assert plan.host_memory_total_bytes <= min(HOST_SHARE * (host - PROCESS), machine.lockable)
        assert plan.memory_total_bytes + plan.host_memory_total_bytes >= least(shape, CPT)
        return
    # No mix of kept, moved and recomputed would do.
    assert least(shape, CPT) > CARD + HOST_SHARE * (host - PROCESS)
    flags, changed = fitting(CPT, shape, CARD, machine=machine, host=host) or ([], CPT)
    need = needs(changed, shape, CARD, machine=machine, host=host)
    assert fits(changed, CARD, need, host, machine)
    assert changed.step_tokens == CPT.step_tokens, flags  # the same training


@pytest.mark.parametrize("base", [base for base, _ in ROWS])
def test_how_much_host_memory_would_do_is_said_to_half_a_gib(base: str) -> None:
    shape = SHAPES[base]
    wanted = wanted_host(CPT, shape, CARD, None, ASSUMED, 10 * GIB)
    assert wanted is not None
    for host, enough in ((wanted, True), (wanted - GIB // 2, False)):
        need = needs(CPT, shape, CARD, host=host)
        assert fits(CPT, CARD, need, host, ASSUMED) == enough
    plan = make_plan(CPT, shape, Found(Card("a card", CARD), host_bytes=10 * GIB, disks=one_disk(GIB)))
    text = render(plan)
    assert "GiB) with 10.0 GiB of host memory available: " in text
    assert f"With {wanted / GIB:.1f} GiB of host memory available it would fit." in text
    locked = replace(ASSUMED, lockable=7.2 * GIB)
    plan = make_plan(
        CPT, shape, Found(Card("a card", CARD), machine=locked, host_bytes=64 * GIB, disks=one_disk(GIB))
    )
    assert "and 7.2 GiB that may be page-locked (--pinned_memory)" in render(plan)
    assert "it would fit" not in render(plan)  # more memory that cannot be locked does not help
    assert wanted_host(CPT, shape, CARD, None, locked, 64 * GIB) is None


@pytest.mark.parametrize(
    ("changes", "first"),
    [
        ({"weights_on_host": "none"}, "--model.weights_on_host auto"),
        ({"weights_on_host": 5}, "--model.weights_on_host auto"),
        ({"activation_budget": 0.5}, "--model.activation_budget auto"),
    ],
)
def test_an_option_that_stands_in_the_way_is_what_is_said_to_change(
    changes: dict[str, object], first: str
) -> None:
    settings, shape = replace(CPT, **changes), SHAPES["Taigi-Llama-2-13B"]  # type: ignore[arg-type]
    plan = make_plan(settings, shape, Found(Card("a card", CARD), disks=one_disk(GIB)))
    assert plan.fits is False
    assert plan.advice == (first,)


def test_workers_and_ranks_take_host_memory_too() -> None:
    shape = SHAPES["Taigi-Llama-2-13B"]
    alone, with_workers = (
        needs(replace(CPT, workers=workers), shape, CARD, host=14 * GIB).host_total for workers in (0, 4)
    )
    assert alone > with_workers
    two = needs(replace(CPT, devices=2), shape, CARD, host=24 * GIB)
    assert two.host_total <= HOST_SHARE * (24 * GIB - 2 * PROCESS)


@pytest.mark.parametrize("name", ["README.md", "README.zh-TW.md"])
def test_the_readmes_say_so(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    (line,) = (line for line in text.splitlines() if ONE_ROW in line and "Gemma 3 4B" in line)
    for words in (
        *(shape for shape in SHAPES if "Llama-2" not in shape),
        *map(str, [*FREE, *FREE.values()]),
        "45 %",
    ):
        assert words in line, words
