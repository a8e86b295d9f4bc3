"""Layers that differ in what they keep, move and make again: the same gradients, and two layers' worth on its way."""

from typing import Any

import pytest
import transformers as hf

from taigi_lightning.fast_path.apply import apply_fast_path, causal_lm
from taigi_lightning.planning.activation_plan import (
    EVERYTHING,
    INPUT,
    INPUT_ONLY,
    MIDDLE,
    MOVED,
    MOVED_INPUT,
    MOVED_MORE,
    OUTPUT,
    RESIDUAL,
    Saving,
    in_flight_bytes,
    layer_bytes,
)
from tests.taigi_lightning.fast_path.late_host import LateHost
from tests.taigi_lightning.fast_path.small_decoders import SIZES, gradients, llama, with_lora, worst
from tests.taigi_lightning.fast_path.small_families import GEMMA3

WITH_OUTPUT = Saving(frozenset(), frozenset({INPUT, MIDDLE, OUTPUT}))
MIXES = {
    "every other": [INPUT_ONLY, MOVED] * 3 + [RESIDUAL],
    "inputs, then more": [MOVED_INPUT, MOVED_INPUT, MOVED, MOVED_INPUT, MOVED, EVERYTHING, EVERYTHING],
    "more, then most": [MOVED_MORE, MOVED, MOVED_MORE, MOVED, MOVED, MOVED_MORE, RESIDUAL],
    "few": [INPUT_ONLY, INPUT_ONLY, INPUT_ONLY, MOVED_INPUT, INPUT_ONLY, INPUT_ONLY, EVERYTHING],
    "first alone": [MOVED_MORE] + [INPUT_ONLY] * 5 + [RESIDUAL],
    "with the last product": [
        WITH_OUTPUT,
        MOVED_INPUT,
        WITH_OUTPUT,
        INPUT_ONLY,
        WITH_OUTPUT,
        RESIDUAL,
        EVERYTHING,
    ],
}


def seven_layers(name: str) -> Any:
    if name == "Llama":
        return llama(num_hidden_layers=7)
    layers = {
        "num_hidden_layers": 7,
        "layer_types": ["sliding_attention", "full_attention"] * 3 + ["full_attention"],
    }
    base = hf.Gemma3ForCausalLM(hf.Gemma3TextConfig(**{**GEMMA3, **layers}))
    return base.requires_grad_(False)


@pytest.mark.parametrize("name", ["Llama", "Gemma 3"])
def test_a_mix_gives_the_same_gradients_and_has_two_layers_worth_on_its_way(name: str) -> None:
    model = with_lora(seven_layers(name))
    wanted = gradients(model)
    decoder = causal_lm(apply_fast_path(model)).fast_decoder
    sizes = layer_bytes(decoder.shape, 24, 4)
    for mix, savings in MIXES.items():
        if name == "Llama" and WITH_OUTPUT in savings:
            continue
        decoder.stash, decoder.plans[(2, 12)] = LateHost(), savings
        assert worst(gradients(model), wanted) < 1e-5, mix
        assert decoder.stash.most <= in_flight_bytes(savings, sizes), mix
        # Each layer's at once, from the last that moves to the first.
        order = [layer for layer, _ in decoder.stash.order]
        moving = [n for n, saving in enumerate(savings) if saving.host]
        assert list(dict.fromkeys(order)) == moving[::-1], mix
        assert len(order) == sum(len(saving.host) for saving in savings), mix


def test_the_next_that_moves_is_on_its_way_while_those_above_compute() -> None:
    """Not one layer before: a copy may take as long as all layers between two that move."""
    model = with_lora(llama(num_hidden_layers=7))
    decoder = causal_lm(apply_fast_path(model)).fast_decoder
    events: list[tuple[str, int]] = []

    class Watched(LateHost):
        def prefetch(self, key: Any) -> None:
            events.append(("comes", key[0]))
            super().prefetch(key)

        def get(self, key: Any) -> Any:
            events.append(("read", key[0]))
            return super().get(key)

    decoder.stash = Watched()
    decoder.plans[(2, 12)] = [
        MOVED_INPUT,
        INPUT_ONLY,
        INPUT_ONLY,
        MOVED_INPUT,
        INPUT_ONLY,
        EVERYTHING,
        EVERYTHING,
    ]
    gradients(model)
    assert list(dict.fromkeys(events)) == [("comes", 3), ("read", 3), ("comes", 0), ("read", 0)]
    assert SIZES["num_hidden_layers"] < 7
