"""What the fast path recomputes, reuses, holds unpacked or leaves on the host changes no gradient."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from taigi_lightning.fast_path.apply import apply_fast_path, causal_lm
from taigi_lightning.kernels import elementwise
from taigi_lightning.planning.activation_plan import (
    EVERYTHING,
    INPUT_ONLY,
    RESIDUAL,
    layer_bytes,
    small_bytes,
    unpacked_bytes,
)
from tests.taigi_lightning.fast_path.small_decoders import (
    PACKED,
    TOKENS,
    gradients,
    llama,
    loss_of,
    nf4_llama,
    with_lora,
    worst,
)


def test_recomputing_drops_what_the_forward_pass_dropped() -> None:
    model = apply_fast_path(with_lora(llama(), dropout=0.3))
    found = []
    for saving in (EVERYTHING, INPUT_ONLY):
        causal_lm(model).fast_decoder.plans[(2, 12)] = [saving] * 2
        torch.manual_seed(7)
        found.append(gradients(model))
    assert worst(found[1], found[0]) < 1e-6


def add_rms_norm_in_place(
    x: Tensor, delta: Tensor, norm: Any, out: Tensor, dropout: Any, post: Any = None
) -> tuple[Tensor, Tensor]:
    total, dropped = elementwise.add_rms_norm(x, delta, norm, out, dropout, post)
    return delta.copy_(total) if post is None else total, dropped


def rms_norm_backward_in_place(
    grad: Tensor, lora: Any, x: Tensor, norm: Any, residual: Any, dropout: Any
) -> tuple[Tensor, Tensor]:
    dx, dropped = elementwise.rms_norm_backward(grad, lora, x, norm, residual, dropout)
    return dx if residual is None else residual.copy_(dx), dropped


def add_rms_norm_backward_in_place(
    grad: Tensor, lora: Any, x: Tensor, delta: Tensor, *rest: Any
) -> tuple[Tensor, ...]:
    dx, d_delta, dropped = elementwise.add_rms_norm_backward(grad, lora, x, delta, *rest)
    return rest[2].copy_(dx), delta.copy_(d_delta), dropped


@pytest.mark.parametrize("saving", [EVERYTHING, INPUT_ONLY, RESIDUAL])
def test_operations_may_take_the_memory_they_are_offered(saving: Any) -> None:
    model = with_lora(llama(num_hidden_layers=3))
    wanted = gradients(model)
    decoder = causal_lm(apply_fast_path(model)).fast_decoder
    decoder.plans[(2, 12)] = [saving] * 3
    decoder.ops = SimpleNamespace(
        **{
            **vars(elementwise),
            "add_rms_norm": add_rms_norm_in_place,
            "rms_norm_backward": rms_norm_backward_in_place,
            "add_rms_norm_backward": add_rms_norm_backward_in_place,
        }
    )
    assert worst(gradients(model), wanted) < 1e-5


def test_an_embedding_on_the_host_reads_the_same_rows() -> None:
    model = with_lora(llama())
    names = list(model.state_dict())
    wanted = gradients(model)
    apply_fast_path(model, embedding_on_host=True)
    embedding = causal_lm(model).get_input_embeddings()
    with torch.no_grad():
        loss_of(model)
    # Whoever sets the training up moves the whole model to the device first: it would come back.
    assert "forward" not in embedding.__dict__
    assert worst(gradients(model), wanted) < 1e-5
    assert "forward" in embedding.__dict__
    assert list(model.state_dict()) == names
    apply_fast_path(model, embedding_on_host=False)
    assert "forward" not in embedding.__dict__


def test_weights_held_unpacked_give_the_same_gradients(nf4_folder: Path) -> None:
    model = with_lora(nf4_llama(nf4_folder))
    wanted = gradients(model)
    apply_fast_path(model, unpacked_layers=1)
    assert worst(gradients(model), wanted) < 1e-5
    nn.init.zeros_(model.base_model.model.model.layers[0].self_attn.q_proj.lora_B.default.weight)
    changed = gradients(model)  # the adapter's part is read anew each time
    assert not changed["base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight"].any()


def test_transformers_own_pass_finds_packed_weights_again(nf4_folder: Path) -> None:
    model = with_lora(nf4_llama(nf4_folder))
    positions = torch.arange(12).expand(2, -1)
    wanted = model(input_ids=TOKENS, position_ids=positions).logits
    apply_fast_path(model, unpacked_layers=2)
    decoder = causal_lm(model).fast_decoder
    assert [layer.unpacked for layer in decoder.layers] == [True, True]
    torch.testing.assert_close(model(input_ids=TOKENS, position_ids=positions).logits, wanted)
    assert [layer.unpacked for layer in decoder.layers] == [False, False]


@pytest.mark.parametrize("packed_on_host", [True, False])
def test_layers_unpacked_and_packed_again_compute_the_same(nf4_folder: Path, packed_on_host: bool) -> None:
    model = with_lora(nf4_llama(nf4_folder))
    apply_fast_path(model)
    wanted = gradients(model)
    decoder = causal_lm(model).fast_decoder
    for layers in (2, 1, 0):
        decoder.keep_unpacked(layers, packed_on_host)
        assert worst(gradients(model), wanted) < 1e-5


def test_a_larger_shape_takes_the_memory_of_unpacked_weights_back(
    nf4_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = with_lora(nf4_llama(nf4_folder))
    wanted = gradients(model)
    apply_fast_path(model)
    decoder = causal_lm(model).fast_decoder
    decoder.fill = True  # as on a GPU
    each = unpacked_bytes(decoder.shape, 4, 4)
    kept = 2 * sum(layer_bytes(decoder.shape, 24, 4).values()) + small_bytes(decoder.shape, 24, 4, 4)
    monkeypatch.setattr(
        decoder, "headroom", lambda tokens: kept * tokens / 24 + (2 - tokens / 24) * 1.5 * each
    )
    assert worst(gradients(model), wanted) < 1e-5
    assert decoder.unpacked == 1
    loss_of(model, TOKENS.repeat(2, 1), PACKED.repeat(2, 1)).backward()
    assert decoder.unpacked == 0
    loss_of(model, TOKENS[:1], PACKED[:1]).backward()
    assert decoder.unpacked == 0  # a smaller one comes and goes
    assert worst(gradients(model), wanted) < 1e-5


def test_a_smaller_shape_asks_nothing_of_the_device_where_a_larger_one_keeps_everything(
    nf4_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = causal_lm(apply_fast_path(with_lora(nf4_llama(nf4_folder)))).fast_decoder
    asked: list[int] = []
    headroom = decoder.headroom
    monkeypatch.setattr(decoder, "headroom", lambda tokens: asked.append(tokens) or headroom(tokens))
    shapes = ((2, 12), (2, 7), (1, 12), (3, 12))
    kept = [decoder.savings(shape) for shape in shapes]
    assert asked == [24, 36]
    assert kept == [[EVERYTHING] * 2] * 4
    decoder.plans = {(2, 12): [INPUT_ONLY] * 2}
    decoder.savings((2, 7))
    assert asked == [24, 36, 14]  # more may be kept of less
