"""Products in fp8, emulated on a CPU: what the fast path computes in them, and what is left as it was."""

from functools import partial
from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import pytest
import torch
from torch import Tensor
from transformers import Qwen2Config, Qwen2ForCausalLM

from taigi_lightning.errors import InputError
from taigi_lightning.fast_path.apply import apply_fast_path, causal_lm, compute_in, fast_decoder
from taigi_lightning.fast_path.nf4_linear import ProjectionGroup
from taigi_lightning.fast_path.prefill import last_hidden
from taigi_lightning.kernels.fp8 import E4M3
from taigi_lightning.model.base_model import load_base_model
from taigi_lightning.model.frozen_update import add_frozen_updates
from taigi_lightning.planning.activation_plan import EVERYTHING, INPUT_ONLY, RESIDUAL, unpacked_bytes
from taigi_lightning.planning.memory import Shape
from taigi_lightning.tasks.prefix_tree import pack_trees, token_tree
from tests.taigi_lightning.fast_path.small_decoders import (
    SIZES,
    gradients,
    llama,
    loss_of,
    nf4_llama,
    with_lora,
    worst,
)
from tests.taigi_lightning.fast_path.test_weight_stream import same, streamed
from tests.taigi_lightning.model.saved_adapters import save_adapter


def rounded(x: Tensor) -> Tensor:
    """Each row to four significant bits, the smallest number kept being 2^-15 to 2^-16 of its largest."""
    scale = 2.0 ** torch.ceil(torch.log2(x.abs().amax(-1, keepdim=True).clamp(min=1e-30) / 448))
    return (x / scale).to(E4M3).float() * scale


class _Rounded(torch.autograd.Function):
    """A Linear's product as it is to be: everything that it multiplies is rounded, and nothing else."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, unrounded: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return rounded(x) @ weight.t() if unrounded is None else x @ unrounded.t()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        return rounded(grad) @ weight, None, None


def rounding_peft(folder: Path, architecture: Any = None, forward_too: bool = True) -> Any:
    """The outside reference: transformers and PEFT over a 4-bit base whose products round what they multiply."""
    base = nf4_llama(folder, architecture) if architecture else nf4_llama(folder)
    for module in base.modules():
        if type(module).__name__ == "Linear4bit":
            packed = module.weight
            whole = bnb.functional.dequantize_4bit(packed.data, packed.quant_state)
            weights = rounded(whole), None if forward_too else whole

            def forward(x: Tensor, weights: Any = weights, bias: Any = module.bias) -> Tensor:
                y: Tensor = _Rounded.apply(x, *weights)  # type: ignore[no-untyped-call]
                return y if bias is None else y + bias

            module.forward = forward
    return with_lora(base)


def in_fp8(model: Any, **options: Any) -> Any:
    compute_in(apply_fast_path(model, **options), "fp8")
    return model


@pytest.mark.parametrize("unpacked", [0, 1])
def test_the_forward_pass_may_stay_in_16_bits(nf4_folder: Path, unpacked: int) -> None:
    wanted = gradients(rounding_peft(nf4_folder, forward_too=False))
    model = with_lora(nf4_llama(nf4_folder))
    plain = loss_of(model)
    compute_in(apply_fast_path(model, unpacked_layers=unpacked), "fp8_backward")
    causal_lm(model).fast_decoder.keep_unpacked(unpacked)
    torch.testing.assert_close(loss_of(model), plain, rtol=1e-6, atol=0)
    assert worst(gradients(model), wanted) < 1e-4
    groups = causal_lm(model).fast_decoder.layers[0].groups()
    held = [t for g in groups if g.resident is not None for t in (*g.fp8._held.values(), g.resident)]
    assert sum(t.nbytes for t in held) == (sum(g.unpacked_bytes(4) for g in groups) if unpacked else 0)


@pytest.mark.parametrize("saving", [EVERYTHING, INPUT_ONLY, RESIDUAL])
def test_gradients_are_those_of_rounded_products(nf4_folder: Path, saving: Any) -> None:
    wanted = gradients(rounding_peft(nf4_folder))
    model = in_fp8(with_lora(nf4_llama(nf4_folder)))
    causal_lm(model).fast_decoder.plans[(2, 12)] = [saving] * 2
    assert len(wanted) == 28
    found = gradients(model)
    assert worst(found, wanted) < 1e-4
    unrounded = gradients(with_lora(nf4_llama(nf4_folder)))
    assert 0.02 < worst(found, unrounded) < 0.3  # the rounding is there, and is one of four bits
    compute_in(model, "bf16")
    assert worst(gradients(model), unrounded) < 1e-5


def test_biases_are_added_to_rounded_products(tmp_path: Path) -> None:
    torch.manual_seed(0)
    base = Qwen2ForCausalLM(Qwen2Config(**SIZES))
    for name, parameter in base.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
    base.save_pretrained(tmp_path)
    wanted = gradients(rounding_peft(tmp_path, Qwen2ForCausalLM))
    assert worst(gradients(in_fp8(with_lora(nf4_llama(tmp_path, Qwen2ForCausalLM)))), wanted) < 1e-4


def _product(weight: Tensor, x: Tensor) -> Tensor:
    return x @ weight


def test_loras_and_frozen_updates_parts_are_not_rounded(
    tmp_path: Path, nf4_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier = save_adapter(nf4_folder, tmp_path / "earlier", r=3, lora_alpha=7)
    found = []
    for fp8 in (False, True):
        base = nf4_llama(nf4_folder)
        add_frozen_updates(base, [earlier], torch.float32)
        model = apply_fast_path(with_lora(base))
        group = causal_lm(model).fast_decoder.layers[0].qkv
        if fp8:
            compute_in(model, "fp8")
            plain = ProjectionGroup([m.module for m in group.members], False)._unpacked(torch.float32)[:, :64]
            monkeypatch.setattr(group.fp8, "forward", partial(_product, plain.t()))
            monkeypatch.setattr(group.fp8, "backward", partial(_product, plain))
        torch.manual_seed(0)
        inputs, grad = group.buffer(torch.randn(7, 64)), torch.randn(7, group.out_features)
        inputs[:, :64] = torch.randn(7, 64)
        y, hidden = group.forward(inputs, inputs[:, :64])
        direct, side, hidden_grad = group.backward(grad, with_mask=False)
        assert side is None
        found.append((y, hidden, direct, hidden_grad, group.hidden_gradient(grad)))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_weights_held_are_those_made_anew_and_take_the_bytes_planned(nf4_folder: Path) -> None:
    model = in_fp8(with_lora(nf4_llama(nf4_folder)))
    wanted = gradients(model)
    decoder = causal_lm(model).fast_decoder
    decoder.keep_unpacked(1)
    assert same(gradients(model), wanted)
    groups = decoder.layers[0].groups()
    held = [t for g in groups for t in (*g.fp8._held.values(), g.resident)]
    assert sum(t.nbytes for t in held) == sum(g.unpacked_bytes(4) for g in groups)
    assert all({t.dtype for t in g.fp8._held.values()} == {E4M3} for g in groups)
    decoder.keep_unpacked(0)
    assert same(gradients(model), wanted)
    decoder.keep_unpacked(2, packed_on_host=False, backward=False)
    assert all(len(g.fp8._held) == 1 for g in groups)
    assert same(gradients(model), wanted)


def test_both_layouts_take_what_one_copy_in_16_bits_takes(nf4_folder: Path) -> None:
    """So that the plan need not know which of the two a layer holds."""
    decoder = causal_lm(in_fp8(with_lora(nf4_llama(nf4_folder), r=8))).fast_decoder
    groups = decoder.layers[0].groups()
    a = sum(8 * m.in_features * 2 for g in groups for m in g.members)
    planned = unpacked_bytes(Shape.from_config(SIZES), 8, packed=False)
    assert sum(g.unpacked_bytes(2) for g in groups) + a == planned
    assert sum(g.unpacked_bytes(2, backward=False) for g in groups) < planned / 2 + a + 2**15


@pytest.mark.parametrize("where", ["all", 3])
def test_weights_from_the_host_go_straight_to_fp8(tmp_path: Path, where: Any) -> None:
    llama(num_hidden_layers=5).save_pretrained(tmp_path)
    found = []
    for weights_on_host in ("none", where):
        model = streamed(tmp_path, weights_on_host)
        compute_in(model, "fp8")
        waiting = [
            layer.index for layer in causal_lm(model).fast_decoder.layers if layer.members()[0].on_host
        ]
        found.append(gradients(model))
        assert len(waiting) == {"none": 0, "all": 5}.get(weights_on_host, weights_on_host)
    assert same(found[0], found[1])


def test_prediction_rounds_as_training_does(nf4_folder: Path) -> None:
    model = in_fp8(with_lora(nf4_llama(nf4_folder)).eval(), activation_budget=1.0)
    decoder = fast_decoder(model)
    assert decoder is not None
    sequence = [5, 6, 7, 8, 9]
    found = last_hidden(decoder, pack_trees([token_tree([sequence])]), torch.arange(5))
    wanted = decoder.hidden(torch.tensor([sequence]), torch.arange(5)[None])[0]
    torch.testing.assert_close(found, wanted.detach(), rtol=1e-3, atol=1e-4)


def test_what_cannot_be_in_fp8_is_said_or_refused(nf4_folder: Path) -> None:
    assert compute_in(apply_fast_path(with_lora(nf4_llama(nf4_folder))), "fp8") == []
    with pytest.raises(InputError, match=r"of q, k and v, its weights are not in 4 bits.*matmul bf16"):
        compute_in(apply_fast_path(with_lora(llama())), "fp8")
    with pytest.raises(InputError, match=r"transformers' own code"):
        compute_in(with_lora(llama()), "fp8")


def test_odd_widths_stay_in_16_bits(tmp_path: Path) -> None:
    torch.manual_seed(0)
    llama(intermediate_size=96).save_pretrained(tmp_path)
    cpu = torch.device("cpu")
    base = load_base_model(str(tmp_path), quantization="nf4", compute_dtype=torch.float32, device=cpu)
    model = apply_fast_path(with_lora(base))
    (said,) = compute_in(model, "fp8")
    assert "the MLP's output stay in 16 bits: its inputs are no multiple of 64" in said
    assert causal_lm(model).fast_decoder.layers[0].down.fp8 is None
    assert all(g.isfinite().all() for g in gradients(model).values())
