"""Products in 8 bits, emulated on a CPU: what the fast path computes in them, and what is left as it was."""

from functools import partial
from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import pytest
import torch
from torch import Tensor
from transformers import Qwen2Config, Qwen2ForCausalLM

from taigi_lightning.errors import InputError
from taigi_lightning.fast_path import nf4_linear
from taigi_lightning.fast_path.apply import apply_fast_path, causal_lm, compute_in, fast_decoder
from taigi_lightning.fast_path.eight_bit_weights import FORMATS
from taigi_lightning.fast_path.nf4_linear import ProjectionGroup
from taigi_lightning.fast_path.prefill import last_hidden
from taigi_lightning.model.base_model import load_base_model
from taigi_lightning.model.frozen_update import add_frozen_updates
from taigi_lightning.planning.activation_plan import EVERYTHING, INPUT_ONLY, RESIDUAL, unpacked_bytes
from taigi_lightning.planning.memory import Shape
from taigi_lightning.tasks.prefix_tree import pack_trees, token_tree
from tests.taigi_lightning.fast_path.small_decoders import (
    SIZES as SMALL,
)
from tests.taigi_lightning.fast_path.small_decoders import (
    gradients,
    llama,
    loss_of,
    nf4_llama,
    with_lora,
    worst,
)
from tests.taigi_lightning.fast_path.test_weight_stream import same, streamed
from tests.taigi_lightning.model.saved_adapters import save_adapter

# How far rounding moves the worst of these small models' gradients: to four significant bits, and to 255 steps.
EFFECT = {"fp8": (0.05, 0.3), "int8": (0.015, 0.1)}
# How far they may be from the reference's: where the forward pass is in int8, a value between two steps that differs
# in its last bit goes to the other, and all that follows sees it.
NEAR = {"fp8": 1e-4, "int8": 0.007}
BITS = torch.tensor([[(i & j).bit_count() for j in range(64)] for i in range(64)])
SIGNS = (-1.0) ** BITS  # an eighth of them rotates 64 values


def rounded(x: Tensor, form: str) -> Tensor:
    """Each row as the format keeps it.

    fp8: to four significant bits, the smallest number kept being 2^-15 to 2^-16 of the row's largest. int8: to 255
    equal steps, each 64 values rotated before and turned back after.
    """
    if form == "fp8":
        scale = 2.0 ** torch.ceil(torch.log2(x.abs().amax(-1, keepdim=True).clamp(min=1e-30) / 448))
        return (x / scale).to(torch.float8_e4m3fn).float() * scale
    turned = (x.reshape(-1, 64) @ SIGNS).view(x.shape)
    step = turned.abs().amax(-1, keepdim=True).clamp(min=1e-30) / 127
    return (torch.floor(turned / step + 0.5) * step).view(-1, 64).matmul(SIGNS / 64).view(x.shape)


class _Rounded(torch.autograd.Function):
    """A Linear's product as it is to be: everything that it multiplies is rounded, and nothing else."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, form: str, forward_too: bool) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.form = form
        return rounded(x, form) @ rounded(weight, form).t() if forward_too else x @ weight.t()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (weight,) = ctx.saved_tensors
        # Along the outputs, over which this product sums.
        return rounded(grad, ctx.form) @ rounded(weight.t(), ctx.form).t(), None, None, None


GROUPS = (("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",))


class _Joined:
    """Linears that are called one after the other with one input, as one product with rounded rows."""

    def __init__(self, linears: list[Any], *how: Any) -> None:
        weights = [m.weight for m in linears]
        self.weight = torch.cat([bnb.functional.dequantize_4bit(w.data, w.quant_state) for w in weights])
        self.sizes, self.how = [m.out_features for m in linears], how
        self.x: Tensor | None = None
        self.parts: tuple[Tensor, ...] = ()

    def __call__(self, x: Tensor, index: int, bias: Tensor | None) -> Tensor:
        if x is not self.x:
            y: Tensor = _Rounded.apply(x, self.weight, *self.how)  # type: ignore[no-untyped-call]
            self.x, self.parts = x, y.split(self.sizes, -1)
        return self.parts[index] if bias is None else self.parts[index] + bias


def rounding_peft(folder: Path, form: str, architecture: Any = None, forward_too: bool = True) -> Any:
    """The outside reference: transformers and PEFT over a 4-bit base whose products round what they multiply."""
    base = nf4_llama(folder, architecture) if architecture else nf4_llama(folder)
    for layer in base.model.layers:
        for names in GROUPS:
            linears = [
                getattr(layer.self_attn if hasattr(layer.self_attn, n) else layer.mlp, n) for n in names
            ]
            joined = _Joined(linears, form, forward_too)
            for index, module in enumerate(linears):
                module.forward = partial(joined, index=index, bias=module.bias)
    return with_lora(base)


def in_8_bits(model: Any, form: Any, **options: Any) -> Any:
    compute_in(apply_fast_path(model, **options), form)
    return model


both = pytest.mark.parametrize("form", ["fp8", "int8"])
SIZES = {**SMALL, "num_key_value_heads": 4}  # no projection has fewer than 64 outputs, which int8 rotates


@pytest.fixture(scope="module")
def nf4_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base whose every projection can be in either format."""
    folder = tmp_path_factory.mktemp("base")
    llama(**SIZES).save_pretrained(folder)
    return folder


@both
@pytest.mark.parametrize("unpacked", [0, 1])
def test_the_forward_pass_may_stay_in_16_bits(nf4_folder: Path, unpacked: int, form: str) -> None:
    wanted = gradients(rounding_peft(nf4_folder, form, forward_too=False))
    model = with_lora(nf4_llama(nf4_folder))
    plain = loss_of(model)
    compute_in(apply_fast_path(model, unpacked_layers=unpacked), f"{form}_backward")  # type: ignore[arg-type]
    causal_lm(model).fast_decoder.keep_unpacked(unpacked)
    torch.testing.assert_close(loss_of(model), plain, rtol=1e-6, atol=0)
    assert worst(gradients(model), wanted) < 1e-4
    groups = causal_lm(model).fast_decoder.layers[0].groups()
    held = [t for g in groups if g.resident is not None for t in (*g.eight_bit._held.values(), g.resident)]
    assert sum(t.nbytes for t in held) == (sum(g.unpacked_bytes(4) for g in groups) if unpacked else 0)


@both
def test_products_are_those_of_rounded_rows(nf4_folder: Path, form: str) -> None:
    layer = causal_lm(in_8_bits(with_lora(nf4_llama(nf4_folder)), form)).fast_decoder.layers[0]
    for group in layer.groups():
        weight = group._unpacked(torch.float32)[:, : group.in_features]
        x, grad = torch.randn(9, group.in_features), torch.randn(9, group.out_features)
        wanted = rounded(x, form) @ rounded(weight, form).t()
        torch.testing.assert_close(group.eight_bit.forward(x), wanted, rtol=1e-4, atol=1e-5)
        wanted = rounded(grad, form) @ rounded(weight.t(), form).t()
        torch.testing.assert_close(group.eight_bit.backward(grad), wanted, rtol=1e-4, atol=1e-5)


@both
@pytest.mark.parametrize("saving", [EVERYTHING, INPUT_ONLY, RESIDUAL])
def test_gradients_are_those_of_rounded_products(nf4_folder: Path, saving: Any, form: str) -> None:
    wanted = gradients(rounding_peft(nf4_folder, form))
    model = in_8_bits(with_lora(nf4_llama(nf4_folder)), form)
    causal_lm(model).fast_decoder.plans[(2, 12)] = [saving] * 2
    assert len(wanted) == 28
    found = gradients(model)
    assert worst(found, wanted) < NEAR[form]
    unrounded = gradients(with_lora(nf4_llama(nf4_folder)))
    least, most = EFFECT[form]
    assert least < worst(found, unrounded) < most  # the rounding is there, and no coarser
    compute_in(model, "bf16")
    assert worst(gradients(model), unrounded) < 1e-5


@both
def test_biases_are_added_to_rounded_products(tmp_path: Path, form: str) -> None:
    torch.manual_seed(0)
    base = Qwen2ForCausalLM(Qwen2Config(**SIZES))
    for name, parameter in base.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
    base.save_pretrained(tmp_path)
    wanted = gradients(rounding_peft(tmp_path, form, Qwen2ForCausalLM))
    found = gradients(in_8_bits(with_lora(nf4_llama(tmp_path, Qwen2ForCausalLM)), form))
    assert worst(found, wanted) < NEAR[form]


@both
def test_loras_and_frozen_updates_parts_are_not_rounded(
    tmp_path: Path, nf4_folder: Path, monkeypatch: pytest.MonkeyPatch, form: Any
) -> None:
    earlier = save_adapter(nf4_folder, tmp_path / "earlier", r=3, lora_alpha=7)
    found = []
    for in_8 in (False, True):
        base = nf4_llama(nf4_folder)
        add_frozen_updates(base, [earlier], torch.float32)
        model = apply_fast_path(with_lora(base))
        group = causal_lm(model).fast_decoder.layers[0].qkv
        if in_8:
            compute_in(model, form)
            plain = ProjectionGroup([m.module for m in group.members], False)._unpacked(torch.float32)[:, :64]
            unrounded = {False: plain, True: plain.t()}
            monkeypatch.setattr(group.eight_bit, "_matrix", unrounded.get)
            monkeypatch.setattr(group.eight_bit, "_scale", lambda _: torch.ones(()))
            monkeypatch.setattr(FORMATS[form], "quantise_rows", lambda x, _: (x, torch.ones(())))
        torch.manual_seed(0)
        inputs, grad = group.buffer(torch.randn(7, 64)), torch.randn(7, group.out_features)
        inputs[:, :64] = torch.randn(7, 64)
        y, hidden = group.forward(inputs, inputs[:, :64])
        direct, side, hidden_grad = group.backward(grad, with_mask=False)
        assert side is None
        found.append((y, hidden, direct, hidden_grad, group.hidden_gradient(grad)))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@both
def test_weights_held_are_those_made_anew_and_take_the_bytes_planned(nf4_folder: Path, form: str) -> None:
    model = in_8_bits(with_lora(nf4_llama(nf4_folder)), form)
    wanted = gradients(model)
    decoder = causal_lm(model).fast_decoder
    decoder.keep_unpacked(1)
    assert same(gradients(model), wanted)
    groups = decoder.layers[0].groups()
    held = [t for g in groups for t in (*g.eight_bit._held.values(), g.resident)]
    assert sum(t.nbytes for t in held) == sum(g.unpacked_bytes(4) for g in groups)
    assert all({t.dtype for t in g.eight_bit._held.values()} == {FORMATS[form].DTYPE} for g in groups)  # type: ignore[index]
    decoder.keep_unpacked(0)
    assert same(gradients(model), wanted)
    decoder.keep_unpacked(2, packed_on_host=False, backward=False)
    assert all(len(g.eight_bit._held) == 1 for g in groups)
    assert same(gradients(model), wanted)


def test_both_layouts_take_what_one_copy_in_16_bits_takes(nf4_folder: Path) -> None:
    """So that the plan need not know which of the two a layer holds."""
    decoder = causal_lm(in_8_bits(with_lora(nf4_llama(nf4_folder), r=8), "int8")).fast_decoder
    groups = decoder.layers[0].groups()
    a = sum(8 * m.in_features * 2 for g in groups for m in g.members)
    planned = unpacked_bytes(Shape.from_config(SIZES), 8, packed=False)
    assert sum(g.unpacked_bytes(2) for g in groups) + a == planned
    assert sum(g.unpacked_bytes(2, backward=False) for g in groups) < planned / 2 + a + 2**15


@both
@pytest.mark.parametrize("where", ["all", 3])
def test_weights_from_the_host_go_straight_to_8_bits(tmp_path: Path, where: Any, form: Any) -> None:
    llama(**SIZES | {"num_hidden_layers": 5}).save_pretrained(tmp_path)
    found = []
    for weights_on_host in ("none", where):
        model = streamed(tmp_path, weights_on_host)
        compute_in(model, form)
        waiting = [
            layer.index for layer in causal_lm(model).fast_decoder.layers if layer.members()[0].on_host
        ]
        found.append(gradients(model))
        assert len(waiting) == {"none": 0, "all": 5}.get(weights_on_host, weights_on_host)
    assert same(found[0], found[1])


@both
@pytest.mark.parametrize("adapted", [True, False])
def test_prediction_rounds_as_training_does(nf4_folder: Path, adapted: bool, form: str) -> None:
    base = nf4_llama(nf4_folder)
    model = in_8_bits((with_lora(base) if adapted else base).eval(), form, activation_budget=1.0)
    decoder = fast_decoder(model)
    assert decoder is not None
    sequence = [5, 6, 7, 8, 9]
    found = last_hidden(decoder, pack_trees([token_tree([sequence])]), torch.arange(5))
    wanted = decoder.hidden(torch.tensor([sequence]), torch.arange(5)[None])[0]
    torch.testing.assert_close(found, wanted.detach(), rtol=1e-3, atol=1e-4)


@both
def test_products_have_their_kernels_where_small_operations_are_left_to_pytorch(
    nf4_folder: Path, monkeypatch: pytest.MonkeyPatch, form: Any
) -> None:
    for fault in (None, "no triton"):
        monkeypatch.setattr(nf4_linear, "triton_fault", lambda fault=fault: fault)
        model = in_8_bits(with_lora(nf4_llama(nf4_folder)), form, compile=False)
        group = causal_lm(model).fast_decoder.layers[0].qkv
        assert not group.fused and group.eight_bit._fused == (fault is None)


@both
def test_what_cannot_be_in_8_bits_is_said_or_refused(nf4_folder: Path, form: Any) -> None:
    assert compute_in(apply_fast_path(with_lora(nf4_llama(nf4_folder))), form) == []
    with pytest.raises(InputError, match=r"of q, k and v, its weights are not in 4 bits.*matmul bf16"):
        compute_in(apply_fast_path(with_lora(llama())), form)
    with pytest.raises(InputError, match=r"transformers' own code"):
        compute_in(with_lora(llama()), form)


@both
def test_odd_widths_stay_in_16_bits(tmp_path: Path, form: Any) -> None:
    torch.manual_seed(0)
    llama(**SIZES | {"intermediate_size": 96}).save_pretrained(tmp_path)
    cpu = torch.device("cpu")
    base = load_base_model(str(tmp_path), quantization="nf4", compute_dtype=torch.float32, device=cpu)
    model = apply_fast_path(with_lora(base))
    said = compute_in(model, form)
    assert any("the MLP's output stay in 16 bits: its inputs are no multiple of 64" in line for line in said)
    assert causal_lm(model).fast_decoder.layers[0].down.eight_bit is None
    assert all(g.isfinite().all() for g in gradients(model).values())
