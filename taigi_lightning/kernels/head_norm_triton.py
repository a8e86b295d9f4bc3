"""`rope`'s rotations behind the norms of q and k as Triton kernels: a program takes some heads of one token.

Where a norm spans all heads, that is all of q's or all of k's.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

import triton
import triton.language as tl
from torch import Tensor

from taigi_lightning.kernels.norm_triton import weight_of, weighted
from taigi_lightning.kernels.rope import HeadNorms

HEADS = 8  # that a program handles, where each has a norm of its own


@triton.jit
def _sum(one, other, WHOLE: tl.constexpr):
    """Over what a norm spans, of both halves of the heads: (HEADS, 1), or (1, 1) if it spans all of them."""
    found = tl.sum(one + other, 1)[:, None]
    if WHOLE:
        found = tl.sum(found, 0)[None, :]
    return found


@triton.jit
def _places(
    group, heads, weight, HALF: tl.constexpr, WIDTH: tl.constexpr, HEADS: tl.constexpr, WHOLE: tl.constexpr
):
    head = group * HEADS + tl.arange(0, HEADS)[:, None]
    column = tl.arange(0, WIDTH)[None, :]
    inside = (head < heads) & (column < HALF)
    at = weight + column
    if WHOLE:
        at += head * 2 * HALF
    return (
        head,
        column,
        inside,
        tl.load(at, mask=inside, other=0.0),
        tl.load(at + HALF, mask=inside, other=0.0),
    )


@triton.jit
def _forward(
    x, x_head, out, out_head, group, heads, weight, eps, cos, sin,
    HALF: tl.constexpr, WIDTH: tl.constexpr, HEADS: tl.constexpr, WHOLE: tl.constexpr, ONE_PLUS: tl.constexpr,
):  # fmt: skip
    head, column, inside, w_first, w_second = _places(group, heads, weight, HALF, WIDTH, HEADS, WHOLE)
    at = x + head * x_head + column
    first = tl.load(at, mask=inside, other=0.0)
    second = tl.load(at + HALF, mask=inside, other=0.0)
    one, other = first.to(tl.float32), second.to(tl.float32)
    count = 2 * HALF * heads if WHOLE else 2 * HALF
    inverse = tl.rsqrt(_sum(one * one, other * other, WHOLE) / count + eps)
    one = weighted(one * inverse, w_first, first.dtype, ONE_PLUS).to(tl.float32)
    other = weighted(other * inverse, w_second, first.dtype, ONE_PLUS).to(tl.float32)
    c = tl.load(cos + column, mask=column < HALF, other=0.0).to(tl.float32)
    s = tl.load(sin + column, mask=column < HALF, other=0.0).to(tl.float32)
    to = out + head * out_head + column
    tl.store(to, one * c - other * s, mask=inside)
    tl.store(to + HALF, other * c + one * s, mask=inside)


@triton.jit
def _norm_rotate_kernel(
    x, q_weight, k_weight, cos, sin, out, heads, kv_heads, x_row, x_head, out_row, out_head, q_eps, k_eps,
    HALF: tl.constexpr, WIDTH: tl.constexpr, HEADS: tl.constexpr, WHOLE: tl.constexpr, ONE_PLUS: tl.constexpr,
):  # fmt: skip
    row, group = tl.program_id(0).to(tl.int64), tl.program_id(1)
    x, out, cos, sin = x + row * x_row, out + row * out_row, cos + row * 2 * HALF, sin + row * 2 * HALF
    of_q = tl.cdiv(heads, HEADS)
    if group < of_q:
        _forward(
            x, x_head, out, out_head, group, heads, q_weight, q_eps, cos, sin, HALF, WIDTH, HEADS, WHOLE, ONE_PLUS
        )  # fmt: skip
    else:
        x, out, group = x + heads * x_head, out + heads * out_head, group - of_q
        _forward(
            x, x_head, out, out_head, group, kv_heads, k_weight, k_eps, cos, sin,
            HALF, WIDTH, HEADS, WHOLE, ONE_PLUS,
        )  # fmt: skip


@triton.jit
def _backward(
    grad, grad_head, x, x_head, out, out_head, group, heads, weight, eps, cos, sin,
    HALF: tl.constexpr, WIDTH: tl.constexpr, HEADS: tl.constexpr, WHOLE: tl.constexpr, ONE_PLUS: tl.constexpr,
):  # fmt: skip
    head, column, inside, w_first, w_second = _places(group, heads, weight, HALF, WIDTH, HEADS, WHOLE)
    at = grad + head * grad_head + column
    first = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(at + HALF, mask=inside, other=0.0).to(tl.float32)
    c = tl.load(cos + column, mask=column < HALF, other=0.0).to(tl.float32)
    s = tl.load(sin + column, mask=column < HALF, other=0.0).to(tl.float32)
    one = (first * c + second * s) * weight_of(w_first, ONE_PLUS)
    other = (second * c - first * s) * weight_of(w_second, ONE_PLUS)
    at = x + head * x_head + column
    hat_one = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    hat_other = tl.load(at + HALF, mask=inside, other=0.0).to(tl.float32)
    count = 2 * HALF * heads if WHOLE else 2 * HALF
    inverse = tl.rsqrt(_sum(hat_one * hat_one, hat_other * hat_other, WHOLE) / count + eps)
    hat_one, hat_other = hat_one * inverse, hat_other * inverse
    mean = _sum(one * hat_one, other * hat_other, WHOLE) / count
    to = out + head * out_head + column
    tl.store(to, inverse * (one - hat_one * mean), mask=inside)
    tl.store(to + HALF, inverse * (other - hat_other * mean), mask=inside)


@triton.jit
def _norm_rotate_back_kernel(
    q, k, v, x, q_weight, k_weight, cos, sin, out, heads, kv_heads,
    q_row, q_head, k_row, k_head, v_row, v_head, x_row, x_head, out_row, out_head, q_eps, k_eps,
    HALF: tl.constexpr, WIDTH: tl.constexpr, HEADS: tl.constexpr, WHOLE: tl.constexpr, ONE_PLUS: tl.constexpr,
):  # fmt: skip
    row, group = tl.program_id(0).to(tl.int64), tl.program_id(1)
    x, out, cos, sin = x + row * x_row, out + row * out_row, cos + row * 2 * HALF, sin + row * 2 * HALF
    of_q, of_k = tl.cdiv(heads, HEADS), tl.cdiv(kv_heads, HEADS)
    if group < of_q:
        _backward(
            q + row * q_row, q_head, x, x_head, out, out_head, group, heads, q_weight, q_eps, cos, sin,
            HALF, WIDTH, HEADS, WHOLE, ONE_PLUS,
        )  # fmt: skip
    elif group < of_q + of_k:
        x, out = x + heads * x_head, out + heads * out_head
        _backward(
            k + row * k_row, k_head, x, x_head, out, out_head, group - of_q, kv_heads, k_weight, k_eps, cos, sin,
            HALF, WIDTH, HEADS, WHOLE, ONE_PLUS,
        )  # fmt: skip
    else:
        head = (group - of_q - of_k) * HEADS + tl.arange(0, HEADS)[:, None]
        column = tl.arange(0, WIDTH)[None, :]
        inside = (head < kv_heads) & (column < HALF)
        at, to = v + row * v_row + head * v_head + column, out + (heads + kv_heads + head) * out_head + column
        tl.store(to, tl.load(at, mask=inside), mask=inside)
        tl.store(to + HALF, tl.load(at + HALF, mask=inside), mask=inside)


def _options(
    heads: int, kv_heads: int, size: int, norms: HeadNorms
) -> tuple[int, int, dict[str, int | bool]]:
    """Programs for q's heads, for k's, and the kernels' constants."""
    each = triton.next_power_of_2(max(heads, kv_heads)) if norms.whole else HEADS
    constants = {"HALF": size // 2, "WIDTH": triton.next_power_of_2(size // 2), "HEADS": each}
    constants |= {"WHOLE": norms.whole, "ONE_PLUS": norms.q.one_plus}
    return triton.cdiv(heads, each), triton.cdiv(kv_heads, each), constants


def norm_rotate(x: Tensor, heads: int, norms: HeadNorms, cos: Tensor, sin: Tensor, out: Tensor) -> None:
    rows, every, size = x.shape
    of_q, of_k, constants = _options(heads, every - heads, size, norms)
    strides = [stride for t in (x, out) for stride in t.stride()[:2]]
    _norm_rotate_kernel[(rows, of_q + of_k)](
        x, norms.q.weight, norms.k.weight, cos, sin, out, heads, every - heads, *strides, norms.q.eps, norms.k.eps,
        **constants,
    )  # fmt: skip


def norm_rotate_back(
    q: Tensor, k: Tensor, v: Tensor, x: Tensor, norms: HeadNorms, cos: Tensor, sin: Tensor, out: Tensor
) -> None:
    (rows, heads, size), kv_heads = q.shape, k.shape[1]
    of_q, of_k, constants = _options(heads, kv_heads, size, norms)
    strides = [stride for t in (q, k, v, x, out) for stride in t.stride()[:2]]
    _norm_rotate_back_kernel[(rows, of_q + 2 * of_k)](
        q, k, v, x, norms.q.weight, norms.k.weight, cos, sin, out, heads, kv_heads, *strides,
        norms.q.eps, norms.k.eps, **constants,
    )  # fmt: skip
