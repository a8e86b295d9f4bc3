"""What holds of every plan: more memory and less to do never hurt, and what is advised fits when it is followed."""

import math
import re
from dataclasses import replace
from typing import Any, get_args

from hypothesis import given, settings
from hypothesis import strategies as st

from taigi_lightning.kernels.matmul import Matmul
from taigi_lightning.planning.base_shape import KNOWN
from taigi_lightning.planning.cards import Card
from taigi_lightning.planning.host_budget import HOST_SHARE, PROCESS
from taigi_lightning.planning.memory import GIB, Shape, packed_layer_bytes
from taigi_lightning.planning.needing_less import smaller
from taigi_lightning.planning.plan import Disk, Found, Plan, make_plan
from taigi_lightning.planning.plan_text import render
from taigi_lightning.planning.settings import Settings
from taigi_lightning.planning.step_time import ASSUMED, Machine

# A tenth of a 13B, of Gemma 3 27B, of Llama 3.1 70B: as wide, of fewer layers, so that hundreds of plans take seconds.
SHAPES = (
    Shape(4, 5120, 13824, 40, 40, 128, 56064),
    Shape(6, 5376, 21504, 32, 16, 128, 262208, tied=True, head_norm=256, norms=4, post_norms=True),
    Shape(8, 8192, 28672, 64, 8, 128, 128256),
)
GENERAL = "its layers are others"
PREDICTIONS = (
    "--data.batch_tokens",
    "--model.weights_on_host",
    "--trainer.precision",
    "--model.quantization",
)


def any_settings(**fixed: Any) -> st.SearchStrategy[Settings]:
    """Settings of any stage, some of which stand in each other's way."""
    few = {
        "rank": [8, 64, 256], "accumulate": [1, 4], "batch_size": [1, 2, 3, 8], "max_length": [512, 2048, 8192],
        "devices": [1, 2, 4], "workers": [0, 2], "matmul": list(get_args(Matmul)), "predicts": [False, False, True],
        "quantization": ["nf4", "nf4", "none"], "precision": ["bf16-mixed", "bf16-mixed", "32-true"],
        "activation_budget": ["auto", "auto", 0.0, 0.4], "weights_on_host": ["auto", "auto", "none", "all", 3],
        "optimizer": ["torch.optim.AdamW", "bitsandbytes.optim.PagedAdamW8bit"], "new_tokens": [0, 0, 500],
        "batch_tokens": [2048, 16384],
    }  # fmt: skip
    free = {name: st.sampled_from(values) for name, values in few.items() if name not in fixed}
    return st.builds(Settings, **free, **{name: st.just(value) for name, value in fixed.items()}).filter(able)


def able(asked: Settings) -> bool:
    """Whether a run would begin with these."""
    plain = asked.quantization == "nf4" or asked.weights_on_host in ("auto", "none")
    return plain and (
        asked.matmul == "bf16" or (asked.quantization == "nf4" and asked.precision == "bf16-mixed")
    )


MEMORY = st.sampled_from([1, 2, 3, 4, 6, 8, 12, 16, 24, 48, 80, 141])
HOST = st.sampled_from([0, 1, 2, 3, 5, 10, 18, 26, 60, 250])
MACHINES = st.builds(
    Machine,
    link=st.sampled_from([3e9, 12e9, 50e9]),
    rate=st.sampled_from([20e12, 100e12, 700e12]),
    lockable=st.sampled_from([2 * GIB, 7 * GIB, float("inf"), float("inf")]),
)
MORE = st.sampled_from([1.01, 1.1, 1.5, 4.0])


class Disks(dict[str, Disk]):
    """Any folder's disk is large."""

    def __missing__(self, folder: str) -> Disk:
        return Disk(1, 10**15)


def plan(
    asked: Settings,
    shape: Shape,
    card: float,
    host: float,
    machine: Machine = ASSUMED,
    general: str | None = None,
) -> Plan:
    """The plan for so many GiB."""
    found = Found(Card("a card", int(card * GIB)), disks=Disks(), machine=machine, host_bytes=host * GIB)
    return make_plan(asked, shape, found, general)


@settings(max_examples=40, derandomize=True)
@given(any_settings(), st.sampled_from(SHAPES), MEMORY, HOST, MACHINES, MORE)
def test_more_memory_is_never_slower_nor_refused(
    asked: Settings, shape: Shape, card: float, host: float, machine: Machine, more: float
) -> None:
    found = plan(asked, shape, card, host, machine)
    for other in (
        plan(asked, shape, card * more, host, machine),
        plan(asked, shape, card, host * more, machine),
    ):
        assert other.fits or not found.fits
        if found.fits:
            assert other.decisions.kept_slow_down <= found.decisions.kept_slow_down * 1.0001


@settings(max_examples=40, derandomize=True)
@given(any_settings(), st.sampled_from(SHAPES), MEMORY, HOST, MACHINES)
def test_what_asks_for_less_is_not_refused_where_more_fits(
    asked: Settings, shape: Shape, card: float, host: float, machine: Machine
) -> None:
    if not plan(asked, shape, card, host, machine).fits:
        return
    less: list[tuple[Settings, Shape]] = [
        (asked, replace(shape, layers=shape.layers - 1)),
        (replace(asked, rank=8), shape),
        (replace(asked, batch_size=1), shape),
        (replace(asked, max_length=512), shape),
        (replace(asked, devices=1), shape),
        (replace(asked, workers=0), shape),
        (replace(asked, batch_tokens=2048), shape),
    ]
    for settings_, shape_ in less:
        assert plan(settings_, shape_, card, host, machine).fits


@settings(max_examples=40, derandomize=True)
@given(
    any_settings(), st.sampled_from(SHAPES), MEMORY, HOST, MACHINES, st.sampled_from([None, None, GENERAL])
)
def test_what_is_advised_fits_when_it_is_followed(
    asked: Settings, shape: Shape, card: float, host: float, machine: Machine, general: str | None
) -> None:
    if general is not None:
        asked = replace(asked, matmul="bf16", weights_on_host="auto")
    found = plan(asked, shape, card, host, machine, general)
    wanted = found.host_memory_wanted_bytes
    if found.fits:
        assert (found.advice, wanted, found.advice_host_bytes) == ((), None, None)
        assert found.memory_total_bytes <= card * GIB
        assert found.host_memory_total_bytes <= min(HOST_SHARE * host * GIB, machine.lockable)
        return
    if wanted is not None:
        assert wanted > host * GIB
        assert plan(asked, shape, card, wanted / GIB, machine, general).fits
        assert not plan(asked, shape, card, wanted / GIB - 0.5, machine, general).fits
    if found.advice:
        changed = followed(asked, found.advice, general)
        if not asked.predicts:
            assert changed.step_tokens == asked.step_tokens or changed.max_length < asked.max_length
        with_host = host if found.advice_host_bytes is None else found.advice_host_bytes / GIB
        assert host <= with_host
        assert found.advice_host_bytes is None or wanted is None or found.advice_host_bytes < wanted
        assert plan(changed, shape, card, with_host, machine, general).fits


@settings(max_examples=40, derandomize=True)
@given(any_settings(), st.sampled_from(SHAPES), MEMORY)
def test_the_host_memory_that_a_plan_says_must_be_there_suffices(
    asked: Settings, shape: Shape, card: float
) -> None:
    """Of a card that is named, whose host is taken to have what moves there."""
    free = plan(asked, shape, card, math.inf)
    said = re.search(r"([\d.]+) GiB must be available", " ".join(free.notes))
    assert (said is not None) == bool(free.fits and free.host_memory)
    if said is not None:
        enough = plan(asked, shape, card, float(said[1]) + 0.06)  # it is rounded
        assert enough.fits
        assert (enough.memory, enough.host_memory) == (free.memory, free.host_memory)


def followed(asked: Settings, advice: tuple[str, ...], general: str | None) -> Settings:
    """The settings with the flags of some advice, each of which a command line would take."""
    words = " ".join(advice).split()
    names = {"--model.lora.r": "rank", "--trainer.accumulate_grad_batches": "accumulate"}
    changes: dict[str, Any] = {}
    for flag, value in zip(words[::2], words[1::2], strict=True):
        name = names.get(flag, flag.rpartition(".")[2])
        changes[name] = int(value) if value.isdigit() else value
    if asked.predicts:
        assert set(words[::2]) <= set(PREDICTIONS)
    changed = replace(asked, **changes)
    assert changed in [step for _, step in smaller(asked, general)]
    return changed


def test_the_rank_of_a_saved_adapter_is_not_advised_to_change() -> None:
    for saved in (False, True):
        flags = [flag for flag, _ in smaller(Settings(rank=64, rank_is_saved=saved))]
        assert ("--model.lora.r 32" in flags) is not saved


def test_where_only_both_together_help_both_are_said() -> None:
    asked = Settings(rank=64, batch_size=8)
    found = plan(asked, SHAPES[2], 6, 1)
    assert found.host_memory_wanted_bytes is None and found.advice and found.advice_host_bytes
    assert "GiB of host memory available this fits:" in render(found)
    assert "Nothing short of" not in render(found)


def test_options_that_want_less_of_the_host_are_said_beside_what_is_wanted_without() -> None:
    found = plan(Settings(rank=64, batch_size=4), KNOWN["Bohanlu/Taigi-Llama-2-13B"], 8, 2)
    assert found.host_memory_wanted_bytes is not None and found.advice_host_bytes is not None
    assert found.advice == ("--data.batch_size 1 --trainer.accumulate_grad_batches 4",)
    text = render(found)
    assert text.index("it would fit") < text.index("available this fits:")


def test_weights_in_16_bits_are_advised_to_be_in_4() -> None:
    found = plan(Settings(rank=8, batch_size=1, quantization="none", max_length=512), SHAPES[2], 12, 60)
    assert found.advice[-1] == "--model.quantization nf4"
    answers = plan(Settings(rank=8, predicts=True, quantization="none"), SHAPES[2], 12, 60)
    assert answers.advice[-1] == "--model.quantization nf4"


def test_what_waits_on_the_host_while_it_loads_must_be_there() -> None:
    """All of a base's 4 bits, where the card would not hold them, though fewer would wait there in training."""
    asked, weights = Settings(rank=8, batch_size=1, max_length=512), 8 * packed_layer_bytes(SHAPES[2])
    short, enough = (plan(asked, SHAPES[2], 7.5, (weights + PROCESS) / GIB + more) for more in (-0.1, 0.1))
    assert short.host_memory_loading_bytes == enough.host_memory_loading_bytes == weights
    assert short.host_memory_total_bytes <= enough.host_memory_total_bytes < weights
    assert (short.fits, enough.fits) == (False, True)
    assert "but not the host" in render(short)
    assert f"{weights / GIB:.1f} GiB of weights would wait there while they load" in render(short)
    wanted = short.host_memory_wanted_bytes
    assert wanted is not None and weights + PROCESS <= wanted < weights + PROCESS + GIB // 2
