"""Weights that wait on the host give the numbers of weights that stay, bit for bit, in every kind of pass."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from taigi_lightning.fast_path.apply import apply_fast_path, causal_lm
from taigi_lightning.fast_path.lora_linear import LoraLinear
from taigi_lightning.fast_path.prefill import last_hidden
from taigi_lightning.fast_path.weight_stream import WeightStream
from taigi_lightning.kernels.host_memory import held_in_place
from taigi_lightning.model.base_model import load_base_model
from taigi_lightning.planning.activation_plan import EVERYTHING, INPUT_ONLY, RESIDUAL
from taigi_lightning.tasks.prefix_tree import pack_trees, token_tree
from tests.taigi_lightning.fast_path.small_decoders import TOKENS, gradients, llama, loss_of, with_lora

LAYERS = 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of five layers in 32 bits: more than the stream has slots."""
    folder = tmp_path_factory.mktemp("five-layers")
    llama(num_hidden_layers=LAYERS).save_pretrained(folder)
    return folder


def streamed(folder: Path, weights_on_host: Any, dropout: float = 0.0) -> Any:
    cpu = torch.device("cpu")
    base = load_base_model(str(folder), quantization="nf4", compute_dtype=torch.float32, device=cpu)
    return apply_fast_path(with_lora(base, dropout), weights_on_host=weights_on_host)


def same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> bool:
    return found.keys() == wanted.keys() and all(torch.equal(found[n], wanted[n]) for n in wanted)


@pytest.mark.parametrize("saving", [EVERYTHING, INPUT_ONLY, RESIDUAL])
@pytest.mark.parametrize("weights_on_host", ["all", 3, 1])
def test_gradients_are_those_of_resident_weights(folder: Path, weights_on_host: Any, saving: Any) -> None:
    models = [streamed(folder, where, dropout=0.1) for where in ("none", weights_on_host)]
    found = []
    for model in models:
        causal_lm(model).fast_decoder.plans[tuple(TOKENS.shape)] = [saving] * LAYERS
        for seed in (1, 2):  # the second pass finds in the slots what the first left there
            torch.manual_seed(seed)
            found.append(gradients(model))
    assert same(found[2], found[0])
    assert same(found[3], found[1])
    decoder = causal_lm(models[1]).fast_decoder
    assert len(decoder.stream.hosts) == (LAYERS if weights_on_host == "all" else weights_on_host)


def test_validation_between_steps_changes_nothing(folder: Path) -> None:
    resident, moved = streamed(folder, "none"), streamed(folder, "all")
    wanted = gradients(resident)
    for _ in range(2):
        with torch.no_grad():
            assert torch.equal(loss_of(moved), loss_of(resident))
        assert same(gradients(moved), wanted)


def test_prediction_and_transformers_own_pass_find_every_layer(folder: Path) -> None:
    resident, moved = streamed(folder, "none").eval(), streamed(folder, "all").eval()
    positions = torch.arange(12).expand(2, -1)
    with torch.no_grad():
        found = [m(input_ids=TOKENS, position_ids=positions).logits for m in (moved, moved, resident)]
    assert torch.equal(found[0], found[2])
    assert torch.equal(found[1], found[2])
    trees = pack_trees([token_tree([[5, 6, 7], [5, 6, 9, 4]]), token_tree([[8, 3]])])
    wanted = torch.tensor([2, 4])
    states = [last_hidden(causal_lm(m).fast_decoder, trees, wanted) for m in (moved, resident)]
    assert torch.equal(*states)


def test_a_pass_with_a_way_back_outside_the_decoder_is_refused(folder: Path) -> None:
    with pytest.raises(RuntimeError, match="wait on the host"):
        streamed(folder, "all")(input_ids=TOKENS)


def test_weights_come_back_and_the_model_is_as_it_was(folder: Path) -> None:
    model = streamed(folder, "all")
    wanted = gradients(streamed(folder, "none"))
    assert same(gradients(model), wanted)
    decoder = causal_lm(model).fast_decoder
    projections = [m.base for layer in decoder.layers for m in layer.members()]
    assert all(map(held_in_place, projections))
    decoder.keep_on_host(set())
    assert not any(map(held_in_place, projections))
    assert not decoder.stream.hosts
    assert same(gradients(model), wanted)


@pytest.mark.parametrize("weights_on_host", ["none", 3, "all", "auto"])
def test_applied_anew_only_what_is_asked_for_waits(folder: Path, weights_on_host: Any) -> None:
    model = streamed(folder, "all")
    wanted = gradients(model)
    apply_fast_path(model, weights_on_host=weights_on_host)
    layers = causal_lm(model).fast_decoder.layers
    waiting = [all(held_in_place(m.base) for m in layer.members()) for layer in layers]
    assert sum(waiting) == {"none": 0, 3: 3}.get(weights_on_host, LAYERS)
    assert [layer.stream is not None for layer in layers] == waiting
    assert same(gradients(model), wanted)
    # On a CPU there is no card to be short of: the first step brings back what was only meant to wait for it.
    assert len(causal_lm(model).fast_decoder.stream.hosts) == {3: 3, "all": LAYERS}.get(weights_on_host, 0)


def test_dequantised_layers_that_had_waited_leave_their_4_bits_on_the_host(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = apply_fast_path(streamed(folder, "all"))
    decoder = causal_lm(model).fast_decoder
    decoder.fill = True  # as on a card, where all of this fits
    sent: dict[LoraLinear, str] = {}
    send = LoraLinear.send_packed

    def send_packed(member: LoraLinear, device: Any) -> None:
        # Layers that come back go to the decoder's device, dequantised ones to the "cpu", wherever they compute.
        sent[member] = "host" if device == "cpu" and isinstance(device, str) else "device"
        send(member, device)

    monkeypatch.setattr(LoraLinear, "send_packed", send_packed)
    loss_of(model)
    assert decoder.unpacked == LAYERS
    assert not decoder.stream.hosts
    assert {sent[m] for layer in decoder.layers for m in layer.members()} == {"host"}


def test_moving_the_model_leaves_waiting_weights_where_they_are(folder: Path) -> None:
    model = streamed(folder, "all")
    wanted = gradients(model)
    before = [m.base.weight.data_ptr() for m in causal_lm(model).fast_decoder.layers[0].members()]
    model.to(torch.float64).to(torch.float32)
    assert [m.base.weight.data_ptr() for m in causal_lm(model).fast_decoder.layers[0].members()] == before
    assert same(gradients(model), wanted)


class Queue:
    """A stream whose work is not done but dated: what each piece of it comes after, as events make it so."""

    def __init__(self, name: str) -> None:
        self.name, self.seen = name, {name: 0}

    def work(self) -> dict[str, int]:
        self.seen[self.name] += 1
        return dict(self.seen)

    def record_event(self) -> dict[str, int]:
        return dict(self.seen)

    def wait_event(self, event: dict[str, int]) -> None:
        self.seen = {name: max(self.seen.get(name, 0), event.get(name, 0)) for name in {*self.seen, *event}}

    def wait_stream(self, other: "Queue") -> None:
        self.wait_event(other.record_event())


class Dated(WeightStream):
    """Notes when each slot was last written."""

    def _fetch(self, slot: Any, layer: int) -> None:
        super()._fetch(slot, layer)
        slot.written = self.copies.work()
        slot.arrived = self.copies.record_event()
        before = getattr(slot, "read", {})
        assert all(slot.written.get(name, 0) >= when for name, when in before.items()), "still being read"


def test_no_copy_overtakes_what_reads_its_slot_nor_is_read_before_it_is_through(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder, main = causal_lm(streamed(folder, "all")).fast_decoder, Queue("main")
    stream = Dated(torch.device("cpu"))
    for layer in decoder.layers:
        stream.add(layer.index, layer.members())
    stream.copies = Queue("copies")
    monkeypatch.setattr(torch.cuda, "current_stream", lambda *_: main)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
    passes = [
        (range(LAYERS), {}),
        (reversed(range(LAYERS)), {"backward": True}),
        (range(LAYERS), {"again": True}),
    ]
    for layers, options in [passes[0], passes[1], passes[2], passes[2], passes[0]]:
        for layer in layers:
            stream.enter(layer, **options)
            (slot,) = (slot for slot in stream.slots if slot.layer == layer)
            slot.read = main.work()
            assert slot.read["copies"] >= slot.written["copies"], "not there yet"


class Recorder(WeightStream):
    """Notes which layers are copied, in order."""

    def _fetch(self, slot: Any, layer: int) -> None:
        self.copied.append(layer)
        super()._fetch(slot, layer)


def test_every_copy_but_the_first_starts_a_layer_ahead_in_both_directions(folder: Path) -> None:
    decoder = causal_lm(streamed(folder, "all")).fast_decoder
    stream = Recorder(torch.device("cpu"))
    stream.copied = []
    for layer in decoder.layers:
        stream.add(layer.index, layer.members())
    for _ in range(2):
        for layer in range(LAYERS):
            stream.enter(layer)
            ahead = {slot.layer for slot in stream.slots}
            assert layer == LAYERS - 1 or layer + 1 in ahead
        for layer in reversed(range(LAYERS)):
            stream.enter(layer, backward=True)
            assert layer == 0 or layer - 1 in {slot.layer for slot in stream.slots}
    # Two layers are in the slots when the direction turns: nothing of a pass is copied twice.
    assert stream.copied == [0, 1, 2, 3, 4, 2, 1, 0, 2, 3, 4, 2, 1, 0]
    stream.copied.clear()
    for _ in range(2):
        for layer in range(LAYERS):
            stream.enter(layer, again=True)
    assert stream.copied == [2, 3, 4, 0, 1, 2, 3, 4, 0]
