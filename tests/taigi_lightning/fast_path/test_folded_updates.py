"""Answering in 8 bits with all updates added to the weights before they are rounded, emulated on a CPU."""

from collections.abc import Callable
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


def load(model: Any) -> None:
    model.load_state_dict(
        {n: p.detach() * 3 for n, p in model.named_parameters() if "lora_B" in n}, strict=False
    )


def lora(model: Any, part: str) -> list[torch.nn.Parameter]:
    return [p for name, p in model.named_parameters() if part in name]


def replace(model: Any) -> None:
    for parameter in lora(model, "lora_A"):
        parameter.data = parameter.data * 2


def write_through_data(model: Any) -> None:
    """As averaging callbacks do, uncounted."""
    for parameter in lora(model, "lora_B"):
        parameter.data.copy_(parameter.data.flip(0) * 1.5)


def negate_through_data(model: Any) -> None:
    for parameter in lora(model, "lora_B"):
        parameter.data.neg_()


def write_an_earlier_stage(model: Any) -> None:
    for module in model.modules():
        update = getattr(module, "frozen_update", None)
        if update is not None:
            update.b.data.mul_(2)


def merge_and_unmerge(model: Any) -> None:
    """The 4 bits are rounded anew on either way."""
    for parameter in lora(model, "lora_B"):
        parameter.data.mul_(5)
    model.merge_adapter()
    model.unmerge_adapter()


def diverge(model: Any) -> None:
    lora(model, "lora_B")[-1].data[0, 0] = float("nan")


CHANGES = [
    load,
    replace,
    write_through_data,
    negate_through_data,
    write_an_earlier_stage,
    merge_and_unmerge,
    diverge,
]


@pytest.mark.filterwarnings("ignore:(Merge|Unmerge) lora module to 4-bit")
@both
@pytest.mark.parametrize("change", CHANGES)
def test_an_adapter_that_changes_is_folded_anew(
    tmp_path: Path, nf4_folder: Path, form: str, change: Callable[[Any], None]
) -> None:
    earlier = save_adapter(nf4_folder, tmp_path / "earlier", r=3, lora_alpha=7)
    model, decoder = answering(nf4_folder, form, earlier)
    hold(decoder)
    before = answers(decoder)
    weights = decoder.layers[0].qkv.eight_bit
    assert weights is not None
    held = weights._held[False]
    assert torch.equal(answers(decoder), before) and weights._held[False] is held
    change(model)
    found = answers(decoder)
    anew = [group.eight_bit._held for layer in decoder.layers for group in layer.groups()]  # type: ignore[union-attr]
    answers(decoder)  # once: NaN is no change
    assert [group.eight_bit._held for layer in decoder.layers for group in layer.groups()] == anew  # type: ignore[union-attr]
    decoder.keep_unpacked(0)
    hold(decoder)
    torch.testing.assert_close(found, answers(decoder), rtol=0, atol=0, equal_nan=True)
    assert not torch.equal(found, before)


@pytest.mark.filterwarnings("ignore:(Merge|Unmerge) lora module to 4-bit")
@both
def test_weights_that_were_merged_and_unmerged_are_not_rounded_by_the_scales_of_before(
    nf4_folder: Path, form: str
) -> None:
    model, decoder = answering(nf4_folder, form)
    answers(decoder)
    merge_and_unmerge(model)
    found = answers(decoder)
    compute_in(model, form)  # type: ignore[arg-type]
    assert torch.equal(found, answers(decoder))


@pytest.mark.filterwarnings("ignore:(Merge|Unmerge) lora module to 4-bit")
@both
def test_weights_held_for_training_are_those_that_merging_made(nf4_folder: Path, form: str) -> None:
    """And not the old ones by new scales."""
    model, decoder = answering(nf4_folder, form)
    decoder.keep_unpacked(1, packed_on_host=False)
    gradients(model)
    merge_and_unmerge(model)
    found = gradients(model)
    decoder.keep_unpacked(0)
    assert same(gradients(model), found)


@pytest.mark.filterwarnings("ignore:(Merge|Unmerge) lora module to 4-bit")
@both
def test_weights_alone_that_are_made_anew_are_told_apart(nf4_folder: Path, form: str) -> None:
    """Though their states may lie where the old ones did, and updates are what they were."""
    model, decoder = answering(nf4_folder, form)
    hold(decoder)
    for _ in range(3):
        before = answers(decoder)
        model.merge_adapter()
        model.unmerge_adapter()
        found = answers(decoder)
        assert not torch.equal(found, before)
        decoder.keep_unpacked(0)
        hold(decoder)
        assert torch.equal(answers(decoder), found)


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
            once = iter([eight_bit_weights.round_with_updates])
            patch.setattr(eight_bit_weights, "round_with_updates", lambda *some: next(once, full)(*some))  # noqa: B023
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
    monkeypatch.setattr(
        eight_bit_weights, "round_with_updates", lambda m, *some: [added.append(m), plain(m, *some)][1]
    )
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
