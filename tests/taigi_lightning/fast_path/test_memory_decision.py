"""What a run decides when a micro-batch comes: within card and host, or refused with what would fit."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from taigi_lightning.errors import InputError
from taigi_lightning.fast_path import activation_offload, memory_decision
from taigi_lightning.fast_path.activation_offload import HostBuffers
from taigi_lightning.fast_path.apply import apply_fast_path, causal_lm
from taigi_lightning.fast_path.memory_decision import decide_memory, in_words
from taigi_lightning.planning import training_needs
from taigi_lightning.planning.activation_plan import MARGIN, MOVED_MORE, kept_bytes, small_bytes
from taigi_lightning.planning.base_shape import KNOWN
from taigi_lightning.planning.host_budget import PROCESS
from taigi_lightning.planning.layer_mix import Mixes
from taigi_lightning.planning.memory import GIB
from taigi_lightning.planning.settings import Settings
from taigi_lightning.planning.step_time import ASSUMED
from tests.taigi_lightning.fast_path.small_decoders import llama, with_lora

ROWS = (4, 12)


@pytest.fixture
def decoder(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Eight layers that may move all they make to a host with 100 MB, on a device with as much as a test says."""
    monkeypatch.setattr(activation_offload, "available_bytes", lambda: 100_000_000)
    monkeypatch.setattr(memory_decision, "allowed_bytes", lambda _: (8 * 2.0**30, 2.0**30))
    model = with_lora(llama(num_hidden_layers=8))
    found = causal_lm(apply_fast_path(model)).fast_decoder
    found.stash, found.offload = HostBuffers(), True
    return found


def least(decoder: Any, shape: tuple[int, int], host: float = math.inf) -> float:
    """Bytes of the device that the layers must have, with so many of the host."""
    tokens = math.prod(shape)
    mixes = Mixes(decoder.shape, tokens, decoder.element_size)
    host = min(host, decoder.shape.layers * mixes.most.host)
    return mixes.least(host).device + small_bytes(decoder.shape, tokens, decoder.rank, decoder.element_size)


def lock_at_most(monkeypatch: pytest.MonkeyPatch, most: float) -> None:
    """Let the system lock so many bytes of what is asked of it from now on."""
    asked = 0

    class Locked(Tensor):
        def is_pinned(self, device: object = None) -> bool:
            return True

    real = activation_offload.host_tensor

    def host_tensor(shape: tuple[int], dtype: Any) -> Tensor:
        nonlocal asked
        asked += shape[0]
        return real(shape, dtype).as_subclass(Locked) if asked <= most else real(shape, dtype)

    monkeypatch.setattr(activation_offload, "host_tensor", host_tensor)


def test_host_memory_is_there_before_the_first_pass(decoder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    lock_at_most(monkeypatch, math.inf)
    monkeypatch.setattr(decoder, "headroom", lambda _: 2 * least(decoder, ROWS))
    choice = decide_memory(decoder, ROWS)
    _, moved = kept_bytes(choice.decision.savings, decoder.shape, 48, decoder.rank, decoder.element_size)
    assert moved > 0
    assert decoder.stash.host_bytes() == moved
    assert "8 layers" in in_words(choice) and "some to the host" in in_words(choice)


def test_what_was_decided_is_said_once_and_again_where_it_is_something_else(
    decoder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock_at_most(monkeypatch, math.inf)
    assert decoder.news() is None
    decoder.savings((1, 12))
    assert decoder.news() == "activations of 1 x 12 tokens: all of 8 layers keep theirs"
    decoder.savings((2, 12))  # the same again
    assert decoder.news() is None
    monkeypatch.setattr(decoder, "headroom", lambda _: 2 * least(decoder, ROWS))
    decoder.savings((1, 7))  # all is kept of a larger one, so of this
    decoder.savings(ROWS)
    said = decoder.news()
    assert said.startswith("activations of 4 x 12 tokens: of 8 layers ") and "to the host" in said
    assert decoder.news() is None
    assert decoder.stash.host_bytes() > 0
    decoder.savings((2, 12))
    decoder.savings(ROWS)
    assert decoder.news() is None


def test_a_smaller_host_is_planned_for_anew(decoder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    lock_at_most(monkeypatch, math.inf)
    monkeypatch.setattr(decoder, "headroom", lambda _: least(decoder, ROWS, 0.0) * 1.2)
    whole = decide_memory(decoder, ROWS).decision.savings
    assert whole[0].host == MOVED_MORE.host
    _, moved = kept_bytes(whole, decoder.shape, 48, decoder.rank, decoder.element_size)
    decoder.stash = HostBuffers()
    monkeypatch.setattr(activation_offload, "available_bytes", lambda: moved)  # half of which may be taken
    less = decide_memory(decoder, ROWS)
    assert less.fits
    assert 0 < decoder.stash.host_bytes() <= moved / 2


def test_memory_that_the_system_does_not_lock_is_planned_without(
    decoder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoder, "headroom", lambda _: least(decoder, ROWS, 0.0) * 1.2)
    lock_at_most(monkeypatch, 200_000)
    choice = decide_memory(decoder, ROWS)
    assert choice.fits
    assert 0 < decoder.stash.host_bytes() <= 200_000
    assert decoder.stash.locked_bytes() == decoder.stash.host_bytes()
    # Where nothing would fit without it, slow copies are better than none.
    decoder.stash = HostBuffers()
    monkeypatch.setattr(decoder, "headroom", lambda _: least(decoder, ROWS))
    assert decide_memory(decoder, ROWS).fits
    assert decoder.stash.locked_bytes() < decoder.stash.host_bytes()


@pytest.mark.parametrize(
    ("fitting", "words"),
    [
        ((2, 12), "--data.batch_size 2 with --trainer.accumulate_grad_batches 2 times as large"),
        ((1, 12), "--data.batch_size 1 with --trainer.accumulate_grad_batches 4 times as large"),
        ((1, 6), "--data.batch_size 1 --data.max_length 6"),
        ((1, 3), "--data.batch_size 1 --data.max_length 3"),
        (None, "No smaller micro-batch fits either: take a smaller base or a lower rank"),
    ],
)
def test_what_cannot_fit_is_refused_with_what_would(
    decoder: Any, monkeypatch: pytest.MonkeyPatch, fitting: tuple[int, int] | None, words: str
) -> None:
    monkeypatch.setattr(activation_offload, "available_bytes", lambda: 0)
    headroom = least(decoder, fitting, 0.0) if fitting else 0.0
    monkeypatch.setattr(decoder, "headroom", lambda _: headroom)
    with pytest.raises(
        InputError, match=r"4 x 12 tokens does not fit: the card would lack .* GiB of 8\.0"
    ) as refused:
        decoder.savings(ROWS)
    assert words in str(refused.value)
    decoder.budget = 0.0  # whoever asks for it is let try
    assert len(decoder.savings(ROWS)) == 8


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("waiting", [0, 6 * GIB])
def test_a_run_counts_the_host_as_its_plan_did(
    monkeypatch: pytest.MonkeyPatch, ranks: int, waiting: int
) -> None:
    """Whatever of it has left the card by then, and beside what the run itself takes."""
    planned = training_needs.host_budget(Settings(devices=ranks), 24.0 * GIB, ASSUMED)
    left = 24 * GIB - ranks * PROCESS - waiting
    monkeypatch.setattr(activation_offload, "available_bytes", lambda: left)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
    assert activation_offload.host_budget(True, waiting, math.inf) == planned


@pytest.mark.parametrize("rows", [1, 2, 4])
@pytest.mark.parametrize("host", [8, 12, 16, 1000])
def test_no_run_is_refused_that_its_plan_says_fits(rows: int, host: int) -> None:
    """Cards between those that a plan refuses and those it takes: the margin is for a run to try."""
    shape, refused, told = KNOWN["Bohanlu/Taigi-Llama-2-13B"], 0, 0
    like = SimpleNamespace(shape=shape, rank=64, element_size=2, device=torch.device("cpu"))
    for tenths in range(40, 130, 6):
        card, settings = tenths * GIB // 10, Settings(rank=64, batch_size=rows)
        choice = training_needs.placed(settings, shape, card, ASSUMED, host * GIB)
        beyond = memory_decision._beyond(like, (rows, 2048), choice) - MARGIN * card  # type: ignore[arg-type]
        fits = training_needs.needs(settings, shape, card, host=host * GIB).total <= card
        refused, told = refused + (beyond > 0), told + (not fits)
        assert not (beyond > 0 and fits)
    assert 0 < refused <= told <= refused + 2
