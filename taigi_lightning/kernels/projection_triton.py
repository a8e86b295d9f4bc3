"""Row-wise operations that multiply with LoRA's A as they go: what only those products read is never written.

A dropped-out input d goes to memory and back for nothing but d A^T in the forward pass and the gradient of A in the
backward pass. Here a program keeps its tile of d, and adds up the product, while it streams through the tensors that
it must read and write anyway. In the GLU's backward pass that was slower than what it saves.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

import torch
import triton
import triton.language as tl
from torch import Tensor

from taigi_lightning.kernels.dropout_triton import copy_drop, drop_backward, keep_element, row_key
from taigi_lightning.kernels.elementwise import Activation, Dropout, LoraGradient
from taigi_lightning.kernels.glu_triton import gate_sigmoid, glu
from taigi_lightning.kernels.products import float32_product

WIDEST = 64  # LoRA columns that a program holds
FEWEST = 4096  # rows: fewer leave multiprocessors idle where a program streams through whole rows


@triton.jit(do_not_specialize=["M", "seed"])
def _project_kernel(
    x, a, out, hidden, M, K, R, x_stride, out_stride, hidden_stride, seed,
    THRESHOLD: tl.constexpr, SCALE: tl.constexpr, GLU: tl.constexpr, TANH: tl.constexpr, RANK: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    r = tl.arange(0, RANK)
    key = row_key(row.to(tl.int32), seed)[:, None]
    sums = tl.zeros([ROWS, RANK], tl.float32)
    for first in range(0, K, BLOCK):
        column = first + tl.arange(0, BLOCK)
        inside = (row < M)[:, None] & (column < K)[None, :]
        at = x + row[:, None] * x_stride + column[None, :]
        value = tl.load(at, mask=inside, other=0.0)
        if GLU:
            up = tl.load(at + K, mask=inside, other=0.0)
            gate = value.to(tl.float32)
            value = (gate * gate_sigmoid(gate, TANH)).to(up.dtype) * up
        right = tl.load(
            a + r[None, :] * K + column[:, None], mask=(r < R)[None, :] & (column < K)[:, None], other=0.0
        )
        tl.store(out + row[:, None] * out_stride + column[None, :], value, mask=inside)
        dropped = value
        if THRESHOLD > 0:
            keep = keep_element(key, column[None, :], THRESHOLD)
            dropped = tl.where(keep, value.to(tl.float32) * SCALE, 0.0).to(value.dtype)
        sums = tl.dot(dropped, right, sums, input_precision="ieee")
    tl.store(
        hidden + row[:, None] * hidden_stride + r[None, :], sums, mask=(row < M)[:, None] & (r < R)[None, :]
    )


@triton.jit(do_not_specialize=["seed"])
def _drop_backward_project_kernel(
    grad, side, hidden, x, dx, sums_of_a, M, K, R, grad_stride, hidden_stride, part, seed,
    THRESHOLD: tl.constexpr, SCALE: tl.constexpr, SIDE: tl.constexpr, RANK: tl.constexpr, ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    r = tl.arange(0, RANK)
    sums = tl.zeros([RANK, BLOCK], tl.float32)
    start = tl.program_id(1) * part
    for first in range(start, tl.minimum(start + part, M), ROWS):
        row = (first + tl.arange(0, ROWS)).to(tl.int64)
        inside = (row < M)[:, None] & (column < K)[None, :]
        at = row[:, None] * K + column[None, :]
        mine = (row < M)[None, :] & (r < R)[:, None]
        left = tl.load(hidden + row[None, :] * hidden_stride + r[:, None], mask=mine, other=0.0)
        joined = tl.load(grad + row[:, None] * grad_stride + column[None, :], mask=inside, other=0.0)
        dropped = tl.load(x + at, mask=inside, other=0.0)
        if THRESHOLD > 0:
            keep = keep_element(row_key(row.to(tl.int32), seed)[:, None], column[None, :], THRESHOLD)
            dropped = tl.where(keep, dropped.to(tl.float32) * SCALE, 0.0).to(dropped.dtype)
        if SIDE:
            through = tl.load(side + at, mask=inside, other=0.0).to(tl.float32)
            if THRESHOLD > 0:
                through = tl.where(keep, through * SCALE, 0.0)
            joined = joined.to(tl.float32) + through
        tl.store(dx + at, joined, mask=inside)
        sums = tl.dot(left, dropped, sums, input_precision="ieee")
    place = (tl.program_id(1) * R + r[:, None]) * K + column[None, :]
    tl.store(sums_of_a + place, sums, mask=(r < R)[:, None] & (column < K)[None, :])


# Measured on an H200, and what fits the shared memory of every card since the T4.
TILE = {"ROWS": 32, "BLOCK": 128, "num_warps": 8}
PARTS = 16  # of the rows: each part's gradient of A is summed up by itself


def _worthwhile(x: Tensor, rank: int) -> bool:
    return 0 < rank <= WIDEST and x.shape[0] >= FEWEST


def _options(rank: int, x: Tensor) -> dict[str, int]:
    stages = 3 if x.element_size() == 2 else 1
    return {"RANK": max(16, triton.next_power_of_2(rank)), "num_stages": stages, **TILE}


def _project(
    x: Tensor, out: Tensor, hidden: Tensor, a: Tensor, dropout: Dropout, activation: Activation | None
) -> None:
    (rows, columns), rank = out.shape, a.shape[0]
    _project_kernel[(triton.cdiv(rows, TILE["ROWS"]),)](
        x, a, out, hidden, rows, columns, rank, x.stride(0), out.stride(0), hidden.stride(0), dropout.seed,
        dropout.threshold, dropout.scale, activation is not None, activation == "gelu_tanh", **_options(rank, x),
    )  # fmt: skip


def copy_project(x: Tensor, out: Tensor, hidden: Tensor, a: Tensor, dropout: Dropout) -> None:
    if _worthwhile(x, a.shape[0]):
        _project(x, out, hidden, a, dropout, None)
    else:
        torch.mm(copy_drop(x, out, dropout), a.t(), out=hidden)


def glu_project(
    gate_up: Tensor, out: Tensor, hidden: Tensor, a: Tensor, dropout: Dropout, activation: Activation
) -> None:
    if _worthwhile(gate_up, a.shape[0]):
        _project(gate_up, out, hidden, a, dropout, activation)
    else:
        torch.mm(glu(gate_up, out, dropout, activation), a.t(), out=hidden)


def drop_backward_project(
    grad: Tensor, lora: LoraGradient | None, hidden_grad: Tensor, x: Tensor, dropout: Dropout
) -> tuple[Tensor, Tensor]:
    (rows, columns), rank = x.shape, hidden_grad.shape[1]
    if not _worthwhile(x, rank):
        dx, dropped = drop_backward(grad, lora, x, dropout)
        return dx, float32_product(hidden_grad.t(), dropped)
    dx = torch.empty_like(x)
    part = triton.cdiv(triton.cdiv(rows, PARTS), TILE["ROWS"]) * TILE["ROWS"]
    parts = triton.cdiv(rows, part)
    sums = torch.empty(parts, rank, columns, dtype=torch.float32, device=x.device)
    _drop_backward_project_kernel[(triton.cdiv(columns, TILE["BLOCK"]), parts)](
        grad, x if lora is None else lora[0] @ lora[1], hidden_grad, x, dx, sums, rows, columns, rank,
        grad.stride(0), hidden_grad.stride(0), part, dropout.seed, dropout.threshold, dropout.scale,
        lora is not None, **_options(rank, x),
    )  # fmt: skip
    return dx, sums.sum(0)
