"""As many of transformers' own layers keep their activations as memory holds, and the gradients stay the same."""

import gc
from typing import Any

import pytest
import torch
from torch import Tensor

from taigi_lightning.fast_path.apply import apply_fast_path, causal_lm, checkpointed_layers, expect_state
from taigi_lightning.fast_path.checkpointed_layers import CheckpointedLayers, checkpointable
from tests.taigi_lightning.fast_path.small_decoders import TOKENS, gradients, loss_of, worst
from tests.taigi_lightning.fast_path.small_general import HANDED_ON, LAYERS, SMALL, kept_by_each, small


class Card:
    """A device of `size` bytes on which `taken` are held, and `peaks` are read one after the other."""

    def __init__(self, size: float, taken: int = 0, peaks: tuple[int, ...] = (0, 0)) -> None:
        self.size, self.taken, self.peaks = size, taken, list(peaks)

    def held(self) -> int:
        return self.taken

    def peak(self) -> int:
        return self.peaks.pop(0)

    def forget_peak(self) -> None:
        return

    def usable(self) -> float:
        return self.size


def kept_by(model: Any) -> list[bool]:
    return [not layer.gradient_checkpointing for layer in checkpointable(causal_lm(model))]


def drawn(model: Any) -> dict[str, Tensor]:
    """Gradients of one micro-batch, whose dropout begins at one seed."""
    torch.manual_seed(7)
    return gradients(model)


@pytest.mark.parametrize("kind", SMALL)
def test_gradients_are_the_same_however_many_layers_keep_their_activations(kind: str) -> None:
    model = small(kind, dropout=0.3)
    apply_fast_path(model, activation_budget=1.0)
    wanted = drawn(model)
    apply_fast_path(model, activation_budget=0.5)
    assert worst(drawn(model), wanted) < 1e-6  # while it measures
    seen = []
    for budget in (0.0, 0.5, 0.99):
        layers: Any = checkpointed_layers(model)
        layers.counts, layers.budget = {}, budget
        assert worst(drawn(model), wanted) < 1e-6
        seen.append(kept_by(model))
    assert seen[0] == [False] * LAYERS
    assert seen[1][-1] and not seen[1][0]
    assert sum(seen[2]) == LAYERS - 1


@pytest.mark.parametrize("kind", ["phi3", "qwen3_moe", "falcon_h1", "bloom"])
def test_what_each_layer_is_said_to_keep_is_what_autograd_keeps(kind: str) -> None:
    model = small(kind)
    apply_fast_path(model, activation_budget=0.5)
    layers: Any = checkpointed_layers(model)
    drawn(model)
    assert layers.measured[0].layers == pytest.approx(kept_by_each(model), abs=HANDED_ON)


def test_a_layer_that_runs_twice_is_counted_twice() -> None:
    model = small("stablelm")
    apply_fast_path(model, activation_budget=0.5)
    once: Any = checkpointed_layers(model)
    drawn(model)
    decoder = causal_lm(model).model
    decoder.layers = torch.nn.ModuleList([decoder.layers[0], decoder.layers[1], decoder.layers[1]])
    decoder.config.num_hidden_layers = LAYERS
    apply_fast_path(model, activation_budget=0.5)
    twice: Any = checkpointed_layers(model)
    drawn(model)
    (first, other, _), found = once.measured[0].layers, twice.measured[0].layers
    assert found == (first, 2 * other)
    assert twice.measured[0].last == other


# ---- "auto" ---------------------------------------------------------------------------------------


def on_card(model: Any, card: Card) -> Any:
    """Let an already checkpointed model be decided for by what a card holds."""
    base = causal_lm(model)
    base.checkpointed_layers = CheckpointedLayers(base, "auto", card)  # type: ignore[arg-type]
    return base.checkpointed_layers


@pytest.mark.parametrize("count", range(LAYERS + 1))
def test_as_many_layers_as_fit_keep_their_activations_from_the_second_micro_batch_on(count: int) -> None:
    model = small("glm4", dropout=0.3)
    wanted = drawn(apply_fast_path(model, activation_budget=1.0))
    apply_fast_path(model, activation_budget=0.0)
    layers = on_card(model, card := Card(0.0, taken=1000, peaks=(10**6, 10**6)))
    model.zero_grad(set_to_none=True)
    expect_state(model, 500)
    assert worst(drawn(model), wanted) < 1e-6
    assert kept_by(model) == [False] * LAYERS
    (measured,) = layers.measured
    adapter = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    assert measured.coming == 500 + adapter  # and their gradients, not made before
    layers.counts = {}
    card.size = measured.coming + 10**6 + sum(measured.layers[LAYERS - count :])
    assert worst(drawn(model), wanted) < 1e-6
    assert kept_by(model) == [False] * (LAYERS - count) + [True] * count


def test_a_larger_micro_batch_is_measured_anew_and_a_smaller_one_is_not() -> None:
    model = apply_fast_path(small("stablelm"), activation_budget=0.0)
    layers = on_card(model, card := Card(10**9, peaks=(1, 1) * 3))

    def run(rows: int, columns: int) -> int:
        tokens = torch.arange(rows * columns).view(rows, columns) % 90
        loss_of(model, tokens, torch.arange(columns).expand(rows, -1)).backward()  # type: ignore[no-untyped-call]
        return len(layers.measured)

    assert [run(2, 8), run(1, 8), run(2, 8), run(2, 4)] == [1, 1, 1, 1]
    assert kept_by(model) == [True] * LAYERS
    assert run(2, 12) == 2  # more tokens
    assert run(1, 16) == 3  # fewer, in longer rows
    assert run(1, 12) == 3
    card.size = 10.0
    assert run(1, 10) == 3
    assert kept_by(model) == [False] * LAYERS  # another shape asks what is free
    assert "0 of 3" not in (layers.news() or "")
    assert layers.news() is None


def test_a_backward_pass_that_breaks_off_decides_nothing() -> None:
    model = apply_fast_path(small("stablelm"), activation_budget=0.0)
    layers = on_card(model, Card(10**9, peaks=(1,) * 6))

    def fail(_: Tensor) -> None:
        raise MemoryError("as if out of memory")

    handle = checkpointable(causal_lm(model))[0].register_full_backward_pre_hook(lambda _, grad: fail(grad))
    with pytest.raises(MemoryError):
        loss_of(model).backward()  # type: ignore[no-untyped-call]
    handle.remove()
    assert not layers.measured
    loss_of(model, TOKENS[:1], TOKENS[:1] * 0).backward()  # type: ignore[no-untyped-call]
    assert [(found.rows, found.columns) for found in layers.measured] == [(1, 12)]


def test_no_layer_is_measured_without_gradients_or_outside_training() -> None:
    model = apply_fast_path(small("stablelm"), activation_budget=0.5)
    layers: Any = checkpointed_layers(model)
    with torch.no_grad():
        loss_of(model)
    loss_of(model.eval())
    assert not layers.measured


def test_a_cpu_keeps_everything() -> None:
    model = apply_fast_path(small("stablelm"))
    assert checkpointed_layers(model) is None
    assert kept_by(model) == [True] * LAYERS


@pytest.mark.parametrize("kind", ["phi3", "qwen3_moe", "bloom"])
def test_nothing_that_was_measured_stays(kind: str) -> None:
    """Of a function that saves its own result, autograd would keep what a hook gives back, and be kept by it."""
    model = small(kind)
    apply_fast_path(model, activation_budget=0.5)
    layers: Any = checkpointed_layers(model)
    alive = []
    for _ in range(3):
        layers.counts, layers.measured = {}, []
        loss_of(model).backward()
        gc.collect()
        alive.append(sum(isinstance(found, Tensor) for found in gc.get_objects()))
    assert alive[1] == alive[2]
