"""The row-wise operations: dropout that is really random, and the Triton kernels against their specification."""

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from taigi_lightning.kernels import elementwise
from taigi_lightning.kernels.elementwise import Dropout, HeadNorms, Norm, drop, keep_mask
from tests.taigi_lightning.kernels.interpreted import interpreted

CPU = torch.device("cpu")


@pytest.mark.parametrize("probability", [0.05, 0.1, 0.5])
def test_masks_are_independent_bernoulli_noise(probability: float) -> None:
    rows, columns = 2048, 2560
    spread = (probability * (1 - probability)) ** 0.5
    masks = [keep_mask(rows, columns, Dropout(probability, seed), CPU).float() for seed in (1, 2)]
    noise = [(mask - 1 + probability) / spread for mask in masks]

    def standardised(x: Tensor) -> float:
        return abs(float(x.mean())) * x.numel() ** 0.5  # a normal variable's absolute value, if independent

    one, other = noise
    assert standardised(one) < 4
    assert standardised(one * other) < 4  # two seeds
    assert standardised(one[1:] * one[:-1]) < 4  # neighbours
    assert standardised(one[:, 1:] * one[:, :-1]) < 4
    assert 0.9 < float(one.mean(1).std()) * columns**0.5 < 1.1  # no row or column favoured
    assert 0.9 < float(one.mean(0).std()) * rows**0.5 < 1.1


def test_dropout_keeps_the_mean_and_zeroes_the_rest() -> None:
    dropped = drop(torch.ones(500, 400), Dropout(0.25, 3))
    assert sorted(dropped.unique().tolist()) == pytest.approx([0.0, 1 / 0.75])
    assert float(dropped.mean()) == pytest.approx(1.0, abs=0.01)
    assert not Dropout(0.0, 3)


def after_rotation(tokens: int, heads: int, kv_heads: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v as attention may lay them out: every one with strides of its own."""
    noise = torch.Generator().manual_seed(5)
    q = torch.randn(heads, tokens, size + 3, generator=noise)[..., :size].transpose(0, 1)
    k = torch.randn(tokens, kv_heads, size, generator=noise)
    v = torch.randn(tokens, kv_heads + 1, size + 1, generator=noise)[:, 1:, 1:]
    return q, k, v


def test_rotating_back_undoes_the_rotation_of_q_and_k_and_leaves_v() -> None:
    tokens, heads, kv_heads, size = 5, 6, 2, 8
    q, k, v = after_rotation(tokens, heads, kv_heads, size)
    angle = torch.arange(tokens)[:, None] * 10.0 ** -torch.arange(size / 2)
    cos, sin = (turn(angle).repeat(1, 2) for turn in (torch.cos, torch.sin))
    out = torch.full((tokens, heads + 2 * kv_heads, size + 4), 7.0)
    elementwise.rotate_back(q, k, v, cos, sin, out[..., :size])
    for part, x in ((out[:, :6], q), (out[:, 6:8], k)):
        turned = torch.complex(*x.chunk(2, -1)) * torch.polar(torch.ones_like(angle), -angle)[:, None]
        torch.testing.assert_close(part[..., :size], torch.cat([turned.real, turned.imag], -1))
        again = torch.empty(x.shape)
        elementwise.rotate(part[..., :size], cos, sin, again)
        torch.testing.assert_close(again, x)
    assert torch.equal(out[:, 8:, :size], v)
    assert (out[..., size:] == 7.0).all()


@pytest.fixture(scope="module")
def kernels() -> ModuleType:
    return interpreted("elementwise_triton")


def wide(rows: int, columns: int) -> Tensor:
    return torch.full((rows, columns + 8), 7.0)[:, :columns]


X, W = torch.randn(7, 96, generator=torch.Generator().manual_seed(0)), torch.linspace(0.5, 2, 96)
GRAD, SIDE = torch.arange(7 * 96.0).view(7, 96).sin(), torch.arange(7 * 96.0).view(7, 96).cos()
# The hidden activations' gradient is a slice of a wider tensor.
LORA = (
    torch.linspace(-1, 1, 7 * 200).view(7, 200)[:, -24:],
    torch.linspace(-1, 1, 24 * 96).sin().view(24, 96) / 5,
)
COS = torch.linspace(-1, 1, 7 * 8).view(7, 8).repeat(1, 2)


def out_and(call: Callable[[Tensor], Any]) -> tuple[Any, ...]:
    out = wide(7, 96)
    return out, call(out)


def rotated_back(ops: Any, heads: int, kv_heads: int, size: int = 16) -> Tensor:
    out = torch.full((7, heads + 2 * kv_heads, size), 7.0)
    cos = COS[:, : size // 2].repeat(1, 2)
    ops.rotate_back(*after_rotation(7, heads, kv_heads, size), cos, cos.roll(1, 0), out)
    return out


ACTIVATIONS = ("silu", "gelu_tanh")
NORM, PLUS = Norm(W, 1e-5), Norm(W - 1, 1e-5, one_plus=True)


def backward_of_norms(ops: Any, post: Norm, norm: Norm | None, dropout: Dropout) -> Any:
    delta, residual = X.flip(0).clone(), X.flip(1).clone()
    return ops.add_rms_norm_backward(GRAD, LORA, X, delta, post, norm, residual, dropout)


def norm_rotated(ops: Any, heads: int, kv_heads: int, one_plus: bool, whole: bool, size: int = 16) -> Any:
    """Forward into another tensor and in place, and backward."""
    noise = torch.Generator().manual_seed(3)
    x = torch.randn(7, heads + 2 * kv_heads, size + 2, generator=noise)[..., 2:]
    before = x[:, : heads + kv_heads]
    widths = (heads * size, kv_heads * size) if whole else (size, size)
    q, k = (Norm(torch.randn(width, generator=noise), 1e-6, one_plus) for width in widths)
    norms, cos = HeadNorms(q, k, whole), COS[:, : size // 2].repeat(1, 2)
    tables = cos, cos.roll(1, 0)
    turned, back = torch.empty_like(before).contiguous(), torch.full((7, heads + 2 * kv_heads, size), 7.0)
    ops.norm_rotate_back(*after_rotation(7, heads, kv_heads, size), before, norms, *tables, back)
    ops.norm_rotate(before, heads, norms, *tables, turned)
    ops.norm_rotate(before, heads, norms, *tables, before)
    return turned, back, x


CASES: dict[str, Callable[[Any, Dropout], Any]] = {
    "rms_norm": lambda o, d: [
        out_and(lambda out, n=n: o.rms_norm(X, n, out, d))  # type: ignore[misc]
        for n in (NORM, PLUS, None)
    ],
    "add_rms_norm": lambda o, d: out_and(lambda out: o.add_rms_norm(X, SIDE.clone(), NORM, out, d)),
    "add_rms_norm, a norm before": lambda o, d: [
        out_and(lambda out, p=p, n=n: o.add_rms_norm(X, SIDE.clone(), n, out, d, p))  # type: ignore[misc]
        for p, n in ((PLUS, PLUS), (NORM, None))
    ],
    "rms_norm_backward": lambda o, d: [
        o.rms_norm_backward(GRAD, LORA, X, n, X.flip(1).clone(), d) for n in (NORM, PLUS, None)
    ],
    "add_rms_norm_backward": lambda o, d: [
        backward_of_norms(o, p, n, d) for p, n in ((PLUS, PLUS), (NORM, None))
    ],
    "norm_gradient": lambda o, d: (o.norm_gradient(GRAD, X, NORM), o.norm_gradient(GRAD, X, PLUS)),
    "norms of heads": lambda o, d: [
        norm_rotated(o, *heads, one_plus, False)
        for heads in ((6, 6), (12, 3), (3, 1))
        for one_plus in (False, True)
    ],
    "norms of heads, half a head no power of two": lambda o, d: norm_rotated(o, 6, 2, True, False, size=12),
    "norms of all heads": lambda o, d: [norm_rotated(o, *h, False, True) for h in ((6, 6), (12, 3), (3, 1))],
    "copy_drop": lambda o, d: out_and(lambda out: o.copy_drop(X, out, d)),
    "drop_backward": lambda o, d: [o.drop_backward(GRAD, lora, X, d) for lora in (LORA, None)][: 2 - bool(d)],
    "glu": lambda o, d: [
        out_and(lambda out, a=a: o.glu(torch.cat([X, GRAD], 1), out, d, a))  # type: ignore[misc]
        for a in ACTIVATIONS
    ],
    "glu_backward": lambda o, d: [
        o.glu_backward(GRAD, LORA, torch.cat([X, GRAD], 1), d, a) for a in ACTIVATIONS
    ],
    "rotate": lambda o, d: out_and(
        lambda out: o.rotate(X.view(7, 6, 16), COS, COS, out.unflatten(1, (6, 16)))
    ),
    "rotate, half a head no power of two": lambda o, d: out_and(
        lambda out: o.rotate(
            X.view(7, 8, 12), COS[:, :6].repeat(1, 2), COS[:, :6].repeat(1, 2), out.unflatten(1, (8, 12))
        )
    ),
    "rotate, rows and heads in any order": lambda o, d: [
        out_and(lambda out, x=x: o.rotate(x, COS, COS, out.unflatten(1, (-1, 16))[:, : x.shape[1]]))  # type: ignore[misc]
        for x in after_rotation(7, 6, 2, 16)
    ],
    "rotate_back, half a head no power of two": lambda o, d: rotated_back(o, 6, 2, size=12),
    "rotate_back": lambda o, d: [rotated_back(o, *heads) for heads in ((6, 6), (12, 3), (16, 8), (3, 1))],
    "softmax_loss_": lambda o, d: (
        logits := torch.arange(3 * 9000.0).view(3, 9000).sin(),
        o.softmax_loss_(logits, torch.tensor([8999, -100, 0]), -100),
    ),
    "gather_rows": lambda o, d: (o.gather_rows(X, torch.tensor([3, 1, 6])),),
}


@pytest.mark.parametrize("probability", [0.0, 0.25])
@pytest.mark.parametrize("name", CASES)
def test_kernels_compute_what_they_specify(kernels: ModuleType, name: str, probability: float) -> None:
    dropout = Dropout(probability, 987654321)
    found, wanted = (CASES[name](ops, dropout) for ops in (kernels, elementwise))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


def projected(ops: Any, rank: int, dropout: Dropout, activation: Any) -> tuple[Tensor, ...]:
    """Forward and backward of what multiplies with LoRA's A as it goes, on more rows than a program takes."""
    noise = torch.Generator().manual_seed(4)
    rows, columns = 70, 300
    x = torch.randn(rows, columns * (1 if activation is None else 2), generator=noise)
    a, beside = torch.randn(rank, columns, generator=noise), torch.full((rows, columns + rank + 3), 7.0)
    grad, hidden_grad = torch.randn(rows, columns + rank, generator=noise).split([columns, rank], 1)
    lora = (hidden_grad, a) if dropout else None
    out, hidden = beside[:, :columns], beside[:, columns : columns + rank]
    if activation is None:
        ops.copy_project(x, out, hidden, a, dropout)
        return beside, *ops.drop_backward_project(grad, lora, hidden_grad, x, dropout)
    ops.glu_project(x, out, hidden, a, dropout, activation)
    return (beside,)


@pytest.mark.parametrize("fewest", [1, 4096])
@pytest.mark.parametrize("probability", [0.0, 0.25])
def test_products_made_on_the_way_are_those_of_the_dropped_input(
    kernels: ModuleType, monkeypatch: pytest.MonkeyPatch, fewest: int, probability: float
) -> None:
    projection = importlib.import_module("taigi_lightning.kernels.projection_triton")
    monkeypatch.setattr(projection, "FEWEST", fewest)
    dropout = Dropout(probability, 987654321)
    for activation in (None, *ACTIVATIONS):
        for rank in (8, 24, 136):  # fewer columns than a product of tiles takes, no power of two, too many
            found, wanted = (projected(ops, rank, dropout, activation) for ops in (kernels, elementwise))
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def in_two_precisions(ops: Any, dropout: Dropout, post: Norm | None) -> list[Tensor]:
    """A residual stream in float32 around what layers compute in float16: forward, then backward without dropout."""
    stream, delta, grad, out = 1e5 * X, SIDE.half(), (0.1 * GRAD).half(), wide(7, 96).half()
    norm = Norm(PLUS.weight.half(), 1e-5, one_plus=True)
    total, dropped = ops.add_rms_norm(stream.clone(), delta.clone(), norm, out, dropout, post)
    alone = wide(7, 96).half()
    found = [total, dropped, out, ops.rms_norm(stream, norm, alone, dropout), alone]
    more, none = 1e-4 * X.flip(1), Dropout(0.0, 0)
    if post is None:
        found += ops.rms_norm_backward(grad, None, stream, norm, more, none)
    else:
        found += ops.add_rms_norm_backward(grad, None, stream, delta.clone(), post, norm, more, none)
        found.append(ops.norm_gradient(0.01 * GRAD, delta, post))
    return [tensor.clone() for tensor in found]


@pytest.mark.parametrize("probability", [0.0, 0.25])
@pytest.mark.parametrize("post", [None, Norm(torch.linspace(2e4, 5e4, 96).half(), 1e-5, one_plus=True)])
def test_a_residual_stream_in_float32_is_added_up_there(
    kernels: ModuleType, post: Norm | None, probability: float
) -> None:
    found, wanted = (in_two_precisions(ops, Dropout(probability, 9), post) for ops in (kernels, elementwise))
    assert [t.dtype for t in found] == [t.dtype for t in wanted]
    assert float(found[0].abs().max()) > 65504
    assert all(bool(torch.isfinite(t).all()) for t in found)
    torch.testing.assert_close(
        found, wanted, rtol=1e-3, atol=1e-3
    )  # one rounding to float16 may fall otherwise
