"""Answering in 8 bits with all updates added to the weights before they are rounded, emulated on a CPU."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from taigi_lightning.fast_path.apply import apply_fast_path, causal_lm, compute_in
from taigi_lightning.fast_path.decoder import FastDecoder
from taigi_lightning.fast_path.prefill import last_hidden
from taigi_lightning.model.frozen_update import add_frozen_updates
from taigi_lightning.tasks.prefix_tree import pack_trees, token_tree
from tests.taigi_lightning.fast_path.small_decoders import gradients, nf4_llama, with_lora
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


def replace(model: Any) -> None:
    for name, module in model.named_modules():
        if name.endswith("lora_A.default"):
            module.weight.data = module.weight.data * 2


@both
@pytest.mark.parametrize("change", [load, replace])
def test_an_adapter_that_changes_is_folded_anew(
    nf4_folder: Path, form: str, change: Callable[[Any], None]
) -> None:
    model, decoder = answering(nf4_folder, form)
    hold(decoder)
    before = answers(decoder)
    held = decoder.layers[0].qkv.eight_bit._held[False]  # type: ignore[union-attr]
    assert torch.equal(answers(decoder), before)
    assert decoder.layers[0].qkv.eight_bit._held[False] is held  # type: ignore[union-attr]
    change(model)
    found = answers(decoder)
    decoder.keep_unpacked(0)
    hold(decoder)
    assert torch.equal(found, answers(decoder)) and not torch.equal(found, before)


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
