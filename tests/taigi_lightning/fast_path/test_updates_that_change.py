"""Updates that were added to weights in 8 bits, and weights that were made anew: what changes is seen."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from taigi_lightning.fast_path.apply import compute_in
from tests.taigi_lightning.fast_path.small_decoders import gradients
from tests.taigi_lightning.fast_path.test_eight_bit_weights import both, nf4_folder
from tests.taigi_lightning.fast_path.test_folded_updates import (
    answering,
    answers,
    hold,
    load,
    lora,
    write_through_data,
)
from tests.taigi_lightning.fast_path.test_weight_stream import same
from tests.taigi_lightning.model.saved_adapters import save_adapter

__all__ = ["nf4_folder"]  # a fixture


def replace(model: Any) -> None:
    for parameter in lora(model, "lora_A"):
        parameter.data = parameter.data * 2


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
def test_updates_that_were_added_outside_of_a_pass_or_before_one_broke_off_are_not_taken_for_later_ones(
    nf4_folder: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    model, decoder = answering(nf4_folder, form)

    def product() -> None:
        for layer in decoder.layers:
            for group in layer.groups():
                group.predict(torch.randn(3, group.in_features))

    def broken_pass() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(decoder, "ops", None)
            with pytest.raises(AttributeError):
                answers(decoder)

    for first in (product, broken_pass):
        hold(decoder)
        first()
        write_through_data(model)
        found = answers(decoder)
        decoder.keep_unpacked(0)
        hold(decoder)
        assert torch.equal(answers(decoder), found)
        decoder.keep_unpacked(0)
