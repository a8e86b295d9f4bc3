"""`elementwise`'s rotations as Triton kernels: a program takes some heads of one token."""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

import triton
import triton.language as tl
from torch import Tensor

HEADS = 8  # that a program handles


@triton.jit
def _turn(
    x,
    x_head,
    out,
    out_head,
    group,
    heads,
    cos,
    sin,
    TURN: tl.constexpr,
    HALF: tl.constexpr,
    WIDTH: tl.constexpr,
    HEADS: tl.constexpr,
):
    """Of one token, a group's heads of x into out, turned by TURN times the angle, which is 1, -1 or 0."""
    head = group * HEADS + tl.arange(0, HEADS)[:, None]
    column = tl.arange(0, WIDTH)[None, :]  # Triton wants a power of two; half a head may be none
    inside = (head < heads) & (column < HALF)
    at, to = x + head * x_head + column, out + head * out_head + column
    first = tl.load(at, mask=inside)
    second = tl.load(at + HALF, mask=inside)
    if TURN != 0:
        c = tl.load(cos + column, mask=column < HALF).to(tl.float32)
        s = TURN * tl.load(sin + column, mask=column < HALF).to(tl.float32)
        one, other = first.to(tl.float32), second.to(tl.float32)
        first = one * c - other * s
        second = other * c + one * s
    tl.store(to, first, mask=inside)
    tl.store(to + HALF, second, mask=inside)


@triton.jit
def _rotate_kernel(
    x,
    cos,
    sin,
    out,
    heads,
    x_row,
    x_head,
    out_row,
    out_head,
    HALF: tl.constexpr,
    WIDTH: tl.constexpr,
    HEADS: tl.constexpr,
):
    row, group = tl.program_id(0).to(tl.int64), tl.program_id(1)
    x, out, cos, sin = x + row * x_row, out + row * out_row, cos + row * 2 * HALF, sin + row * 2 * HALF
    _turn(x, x_head, out, out_head, group, heads, cos, sin, 1, HALF, WIDTH, HEADS)


@triton.jit
def _rotate_back_kernel(
    q, k, v, cos, sin, out, heads, kv_heads, q_row, q_head, k_row, k_head, v_row, v_head, out_row, out_head,
    HALF: tl.constexpr, WIDTH: tl.constexpr, HEADS: tl.constexpr,
):  # fmt: skip
    row, group = tl.program_id(0).to(tl.int64), tl.program_id(1)
    out, cos, sin = out + row * out_row, cos + row * 2 * HALF, sin + row * 2 * HALF
    of_q, of_k = tl.cdiv(heads, HEADS), tl.cdiv(kv_heads, HEADS)
    # A program's heads are all of one tensor: choosing for each head would make its loads one element wide.
    if group < of_q:
        _turn(q + row * q_row, q_head, out, out_head, group, heads, cos, sin, -1, HALF, WIDTH, HEADS)
    elif group < of_q + of_k:
        out += heads * out_head
        _turn(
            k + row * k_row, k_head, out, out_head, group - of_q, kv_heads, cos, sin, -1, HALF, WIDTH, HEADS
        )
    else:
        out += (heads + kv_heads) * out_head
        _turn(
            v + row * v_row,
            v_head,
            out,
            out_head,
            group - of_q - of_k,
            kv_heads,
            cos,
            sin,
            0,
            HALF,
            WIDTH,
            HEADS,
        )


def rotate(x: Tensor, cos: Tensor, sin: Tensor, out: Tensor) -> None:
    rows, heads, size = x.shape
    strides = [stride for t in (x, out) for stride in t.stride()[:2]]
    _rotate_kernel[(rows, triton.cdiv(heads, HEADS))](
        x, cos, sin, out, heads, *strides, size // 2, triton.next_power_of_2(size // 2), HEADS
    )


def rotate_back(q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, out: Tensor) -> None:
    (rows, heads, size), kv_heads = q.shape, k.shape[1]
    strides = [stride for x in (q, k, v, out) for stride in x.stride()[:2]]
    groups = triton.cdiv(heads, HEADS) + 2 * triton.cdiv(kv_heads, HEADS)
    _rotate_back_kernel[(rows, groups)](
        q, k, v, cos, sin, out, heads, kv_heads, *strides, size // 2, triton.next_power_of_2(size // 2), HEADS
    )
