"""Answering in 8 bits with all updates added to the weights before they are rounded, emulated on a CPU."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from taigi_lightning.fast_path import eight_bit_weights
from taigi_lightning.fast_path.apply import apply_fast_path, causal_lm, compute_in
from taigi_lightning.fast_path.decoder import FastDecoder
from taigi_lightning.fast_path.prefill import last_hidden, layers_that_fit
from taigi_lightning.model.frozen_update import add_frozen_updates
from taigi_lightning.planning.memory import prefill_bytes
from taigi_lightning.tasks.prefix_tree import pack_trees, token_tree
from tests.taigi_lightning.fast_path.small_decoders import gradients, nf4_llama, with_lora, worst
from tests.taigi_lightning.fast_path.test_eight_bit_weights import both, nf4_folder, rounded
from tests.taigi_lightning.fast_path.test_weight_stream import same
from tests.taigi_lightning.model.saved_adapters import save_adapter

__all__ = ["nf4_folder"]  # a fixture
TOKENS = [5, 6, 7, 8, 9, 10, 11]


def answering(folder: Path, form: Any, earlier: Path | None = None) -> tuple[Any, FastDecoder]:
    """A model with an adapter, and an earlier stage's, before its weights are held."""
    base = nf4_llama(folder)
    if earlier is not None:
        add_frozen_updates(base, [earlier], torch.float32)
    model = apply_fast_path(with_lora(base).eval(), activation_budget=1.0)
    compute_in(model, form)
    return model, causal_lm(model).fast_decoder


def hold(decoder: FastDecoder, layers: int = 2) -> None:
    decoder.keep_unpacked(layers, packed_on_host=False, backward=False)


def answers(decoder: FastDecoder) -> Tensor:
    return last_hidden(decoder, pack_trees([token_tree([TOKENS])]), torch.arange(len(TOKENS)))


def load(model: Any) -> None:
    model.load_state_dict(
        {n: p.detach() * 3 for n, p in model.named_parameters() if "lora_B" in n}, strict=False
    )


def lora(model: Any, part: str) -> list[torch.nn.Parameter]:
    return [p for name, p in model.named_parameters() if part in name]


def write_through_data(model: Any) -> None:
    """As averaging callbacks do, uncounted."""
    for parameter in lora(model, "lora_B"):
        parameter.data.copy_(parameter.data.flip(0) * 1.5)


@both
def test_the_sum_is_rounded_once(
    tmp_path: Path, nf4_folder: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    earlier = save_adapter(nf4_folder, tmp_path / "earlier", r=3, lora_alpha=7)
    _, decoder = answering(nf4_folder, form, earlier)
    groups = decoder.layers[0].groups()
    whole = []
    for group in groups:
        inputs = group.buffer(torch.eye(group.in_features))
        inputs[:, : group.in_features] = torch.eye(group.in_features)
        weight = group._unpacked(torch.float32)[:, : group.in_features]
        with monkeypatch.context() as patch:  # x W^T is nothing: what is left are the updates
            patch.setattr(
                group.eight_bit, "_product", lambda x, transposed, beside: beside[0] @ beside[1].t()
            )
            update = group.predict(inputs).t()
        whole.append(weight.half().float() + update)
        assert update.norm() / weight.norm() > 0.05
    hold(decoder)
    for group, weight in zip(groups, whole, strict=True):
        assert group.folded and group.width == group.in_features and not group.rank
        x = torch.randn(9, group.in_features)
        wanted = rounded(x, form) @ rounded(weight, form).t()
        # A value that lies between two steps may go to either.
        assert (group.predict(x) - wanted).norm() < 1e-3 * wanted.norm()
        assert (x @ weight.t() - wanted).norm() > 5e-3 * wanted.norm()


@both
def test_it_answers_as_near_to_16_bits_as_with_lora_beside(nf4_folder: Path, form: str) -> None:
    model, decoder = answering(nf4_folder, form)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # an update of a few percent of the weights, as training leaves it
            parameter.data *= 0.02
    beside = answers(decoder)
    hold(decoder)
    folded = answers(decoder)
    compute_in(model, "bf16")
    exact = answers(decoder)
    assert not torch.equal(folded, beside)
    assert (folded - exact).norm() < 1.5 * (beside - exact).norm()
    assert 0 < (folded - exact).norm() < (0.15 if form == "fp8" else 0.05) * exact.norm()


@both
def test_a_model_that_was_made_in_inference_mode_answers_too(nf4_folder: Path, form: str) -> None:
    with torch.inference_mode():
        _, decoder = answering(nf4_folder, form)
        hold(decoder)
        first = answers(decoder)
    assert torch.equal(answers(decoder), first)


@both
def test_weights_that_cannot_be_held_are_not_half_held(
    nf4_folder: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    """What catches the error, and trains or answers on, still has all updates: there, and where they are added."""
    model, decoder = answering(nf4_folder, form)
    before, wanted = answers(decoder), gradients(model)

    plain, first = eight_bit_weights.round_with_updates, decoder.layers[0].qkv.members[0]

    def full(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError

    with monkeypatch.context() as patch:
        patch.setattr(eight_bit_weights.EightBitWeights, "_empty", full)
        with pytest.raises(torch.OutOfMemoryError):
            hold(decoder)
    assert torch.equal(answers(decoder), before)
    for change in (load, write_through_data):
        hold(decoder)
        folded = answers(decoder)
        change(model)
        with monkeypatch.context() as patch:  # the first projection's are added, the next one's are not
            patch.setattr(
                eight_bit_weights,
                "round_with_updates",
                lambda m, *some: plain(m, *some) if m is first else full(),
            )
            with pytest.raises(torch.OutOfMemoryError):
                answers(decoder)
        found = answers(decoder)
        assert not torch.equal(found, folded)
        decoder.keep_unpacked(0)
        hold(decoder)
        assert torch.equal(answers(decoder), found)
    for parameter in lora(model, "lora_B"):
        parameter.data.copy_(parameter.data.div(4.5).flip(0))
    assert worst(gradients(model), wanted) < 0.01


@both
def test_they_are_added_once_and_only_when_they_are_needed(
    nf4_folder: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    """A checkpoint that is loaded after the model was made, as Lightning does, is in them from the first."""
    model, decoder = answering(nf4_folder, form)
    added: list[Any] = []
    plain = eight_bit_weights.round_with_updates

    def noted(member: Any, *rest: Any) -> Tensor:
        added.append(member)
        return plain(member, *rest)

    monkeypatch.setattr(eight_bit_weights, "round_with_updates", noted)
    hold(decoder)
    load(model)
    hold(decoder)
    assert not added
    found = [answers(decoder) for _ in range(3)]
    assert len(added) == len(set(added)) == sum(len(layer.members()) for layer in decoder.layers)
    assert all(torch.equal(one, found[0]) for one in found)
    decoder.keep_unpacked(0)
    hold(decoder)
    group, x = decoder.layers[0].qkv, torch.randn(5, 64)
    alone = group.predict(x)  # a product outside of any pass
    answers(decoder)
    assert torch.equal(group.predict(x), alone)


@both
def test_training_and_other_passes_find_lora_beside_the_weights(nf4_folder: Path, form: str) -> None:
    model, decoder = answering(nf4_folder, form)
    wanted = gradients(model)
    hold(decoder)
    assert decoder.layers[1].down.folded
    assert same(gradients(model), wanted)
    assert not decoder.layers[1].down.folded
    # Transformers' own pass reads neither.
    plain = causal_lm(model)(torch.tensor([TOKENS])).logits
    hold(decoder)
    assert torch.equal(causal_lm(model)(torch.tensor([TOKENS])).logits, plain)


def test_only_weights_held_in_8_bits_for_answering_are_folded(nf4_folder: Path) -> None:
    model, decoder = answering(nf4_folder, "int8")
    hold(decoder, layers=1)
    assert [layer.qkv.folded for layer in decoder.layers] == [True, False]
    decoder.keep_unpacked(0)
    decoder.keep_unpacked(1)
    assert not decoder.layers[0].qkv.folded  # a backward pass may come
    for matmul in ("bf16", "int8_backward", "int8_mixed"):
        compute_in(model, matmul)  # type: ignore[arg-type]
        wanted = answers(decoder)
        hold(decoder)
        assert not any(group.folded for group in decoder.layers[0].groups())
        torch.testing.assert_close(answers(decoder), wanted)


@both
def test_layers_that_are_held_count_as_headroom_for_the_rows_of_another_stage(
    nf4_folder: Path, form: str
) -> None:
    _, decoder = answering(nf4_folder, form)
    element_size = decoder.element_size
    each = sum(group.unpacked_bytes(element_size, backward=False) for group in decoder.layers[0].groups())
    row = prefill_bytes(decoder.shape.hidden, decoder.shape.intermediate, 64, element_size)
    assert [layers_that_fit(decoder, row + n * each + 1, tokens=64) for n in (0, 1, 2, 9)] == [0, 1, 2, 2]
    hold(decoder)
    held = sum(group.unpacked_bytes(element_size, backward=False) for group in decoder.layers[0].groups())
    assert held < each  # LoRA is inside
    free = row + 1
    assert [layers_that_fit(decoder, free - n * held, tokens=64) for n in (0, 1, 2, 3)] == [2, 1, 0, 0]
    assert layers_that_fit(decoder, free, tokens=10**6) == 0
