"""Kernels that rotate and round what int8 products multiply, and the product itself: see `int8.py`.

A block of 64 values is rotated by a product with the Hadamard matrix, whose entries are 1 and -1: the matrix units do
that while memory is read. Scales take the eighth that a rotation's sums and differences are too large by.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from taigi_lightning.kernels.int8 import BLOCK, DTYPE, EIGHT, SMALLEST, STEPS, hadamard
from taigi_lightning.kernels.nf4_triton import dequantised, state_parts

EIGHTH = 1 / EIGHT
WIDE_TILE = (128, 256, 128, 3)  # of the product: rows, columns, of the sum; stages in shared memory
SMALL_TILE = (128, 128, 64, 3)  # 64 KiB, which every card has
WIDEST = 16384  # columns of a row that one program rotates at once, in 82 KiB of shared memory
PART = 64  # blocks, of a wider row
ROWS_A_PROGRAM, BLOCKS_A_PROGRAM = 4, 16  # of a weight, along its rows


@triton.jit
def _turn(B: tl.constexpr):
    """Where the entries of a B x B matrix are."""
    return tl.arange(0, B)[:, None] * B + tl.arange(0, B)[None, :]


@triton.jit(do_not_specialize=["M"])  # one kernel for all lengths of a batch
def _rotate_kernel(
    x, out, scales, tops, turn, M, K, x_stride, PROGRAMS: tl.constexpr, PARTS: tl.constexpr, FIND: tl.constexpr,
    KNOWN: tl.constexpr, BLOCKS: tl.constexpr, B: tl.constexpr, STEPS: tl.constexpr, SMALLEST: tl.constexpr,
    EIGHTH: tl.constexpr,
):  # fmt: skip
    hadamard = tl.load(turn + _turn(B))
    part = tl.program_id(1)
    at = (part * BLOCKS + tl.arange(0, BLOCKS))[:, None] * B + tl.arange(0, B)[None, :]
    for index in range(tl.program_id(0), M, PROGRAMS):
        row = tl.cast(index, tl.int64)
        value = tl.load(x + row * x_stride + at, mask=at < K, other=0.0)
        value = tl.dot(value, hadamard, input_precision="ieee")
        # A maximum may skip what is no number: then a sum that is none is added to it.
        if KNOWN:
            others = tl.arange(0, PARTS)
            found = tl.load(
                tops + row * tl.num_programs(1) + others, mask=others < tl.num_programs(1), other=0.0
            )
            top, spoilt = tl.maximum(tl.max(found, 0), SMALLEST), tl.sum(found * 0.0, 0)
        else:
            top = tl.maximum(tl.max(tl.max(tl.abs(value), 1), 0), SMALLEST)
            spoilt = tl.sum(tl.sum(value * 0.0, 1), 0)
        if FIND:
            tl.store(tops + row * tl.num_programs(1) + part, top + spoilt)
        else:
            tl.store(scales + row, top / STEPS * EIGHTH + spoilt)
            value = tl.floor(value * (STEPS / top) + 0.5)
            tl.store(out + row * K + at, value.to(tl.int8), mask=at < K)


def quantise_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """x (M, K), its rows perhaps apart, rotated and in int8, and the scale of each row, float32 (M, 1).

    A row that one program cannot hold is read twice: its parts' largest values are found first.
    """
    rows, columns = x.shape
    out = torch.empty(rows, columns, dtype=DTYPE, device=x.device)
    scales = torch.empty(rows, 1, dtype=torch.float32, device=x.device)
    whole = columns <= WIDEST
    blocks = max(16, triton.next_power_of_2(columns // BLOCK)) if whole else PART
    parts = triton.cdiv(columns, blocks * BLOCK)
    tops = scales if whole else torch.empty(rows, parts, dtype=torch.float32, device=x.device)
    programs = 4 * _multiprocessors(x.device)  # of few rows some have none: one kernel for all
    for find in (False,) if whole else (True, False):
        _rotate_kernel[(programs, parts)](
            x, out, scales, tops, hadamard(x.device, x.dtype), rows, columns, x.stride(0), programs,
            triton.next_power_of_2(parts), find, not (whole or find), blocks, BLOCK, STEPS, SMALLEST, EIGHTH,
            num_warps=8 if whole else 4, num_stages=2,
        )  # fmt: skip
    return out, scales


@triton.jit
def _rotated_rows_kernel(
    packed, code, scales, scale_code, scale_scales, offset, turn, inverse, out, N, K,
    NESTED: tl.constexpr, LARGEST: tl.constexpr, ROWS: tl.constexpr, BLOCKS: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    byte = tl.program_id(1) * (BLOCKS * B // 2) + tl.arange(0, BLOCKS * B // 2)
    inside = (row < N)[:, None] & (byte < K // 2)[None, :]
    even, odd = dequantised(
        packed, code, scales, scale_code, scale_scales, offset, row[:, None], byte[None, :], inside, K, NESTED
    )
    value = tl.reshape(tl.interleave(even, odd), (ROWS * BLOCKS, B)).to(tl.float16)
    value = tl.reshape(tl.dot(value, tl.load(turn + _turn(B))), (ROWS, BLOCKS * B))
    column = tl.program_id(1) * (BLOCKS * B) + tl.arange(0, BLOCKS * B)
    inside = (row < N)[:, None] & (column < K)[None, :]
    if LARGEST:
        found = tl.max(tl.where(inside, tl.abs(value), 0.0), 1)
        tl.store(out + row * tl.num_programs(1) + tl.program_id(1), found, mask=row < N)
    else:
        value = tl.floor(value * tl.load(inverse + row, mask=row < N, other=0.0)[:, None] + 0.5)
        tl.store(out + row[:, None] * K + column[None, :], value.to(tl.int8), mask=inside)


@triton.jit
def _rotated_columns_kernel(
    packed, code, scales, scale_code, scale_scales, offset, turn, inverse, out, K, out_stride,
    NESTED: tl.constexpr, LARGEST: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    row = (tl.program_id(0) * B + tl.arange(0, B)).to(tl.int64)
    byte = tl.program_id(1) * (B // 2) + tl.arange(0, B // 2)  # K is a multiple of B
    inside = (row >= 0)[:, None] & (byte < K // 2)[None, :]
    even, odd = dequantised(
        packed, code, scales, scale_code, scale_scales, offset, row[:, None], byte[None, :], inside, K, NESTED
    )
    hadamard = tl.load(turn + _turn(B))
    # Even and odd columns are turned by themselves: their rows go to every other row of the result.
    even, odd = tl.dot(hadamard, even.to(tl.float16)), tl.dot(hadamard, odd.to(tl.float16))
    column = 2 * byte.to(tl.int64)
    if LARGEST:
        found = out + tl.program_id(0).to(tl.int64) * K + column
        tl.store(found, tl.max(tl.abs(even), 0))
        tl.store(found + 1, tl.max(tl.abs(odd), 0))
    else:
        even = tl.floor(even * tl.load(inverse + column)[None, :] + 0.5)
        odd = tl.floor(odd * tl.load(inverse + column + 1)[None, :] + 0.5)
        place = out + column[:, None] * out_stride + row[None, :]
        tl.store(place, tl.trans(even.to(tl.int8)))
        tl.store(place + out_stride, tl.trans(odd.to(tl.int8)))


def _rows(packed: Tensor, state: "object", inverse: Tensor, out: Tensor, shape: torch.Size) -> None:
    *parts, nested = state_parts(state)
    grid = triton.cdiv(shape[0], ROWS_A_PROGRAM), triton.cdiv(shape[1], BLOCKS_A_PROGRAM * BLOCK)
    _rotated_rows_kernel[grid](
        packed, *parts, hadamard(packed.device, torch.float16), inverse, out, *shape, nested,
        out.dtype == torch.float32, ROWS_A_PROGRAM, BLOCKS_A_PROGRAM, BLOCK,
    )  # fmt: skip


def _columns(packed: Tensor, state: "object", inverse: Tensor, out: Tensor, shape: torch.Size) -> None:
    *parts, nested = state_parts(state)
    _rotated_columns_kernel[(shape[0] // BLOCK, shape[1] // BLOCK)](
        packed, *parts, hadamard(packed.device, torch.float16), inverse, out, shape[1], out.stride(0), nested,
        out.dtype == torch.float32, BLOCK,
    )  # fmt: skip


def largest(packed: Tensor, state: "object") -> tuple[Tensor, Tensor]:
    """`int8.largest` on the card. Both sides of the weight (N, K) are multiples of 64."""
    shape = state.shape  # type: ignore[attr-defined]
    parts = triton.cdiv(shape[1], BLOCKS_A_PROGRAM * BLOCK)
    by_row = torch.empty(shape[0], parts, dtype=torch.float32, device=packed.device)
    by_column = torch.empty(shape[0] // BLOCK, shape[1], dtype=torch.float32, device=packed.device)
    _rows(packed, state, by_row, by_row, shape)
    _columns(packed, state, by_column, by_column, shape)
    return by_row.amax(1), by_column.amax(0)


def write(packed: Tensor, state: "object", scale: Tensor, out: Tensor, transposed: bool) -> None:
    """`int8.write` on the card, into out (N, K), or transposed into out (K, N), whose rows may lie apart."""
    (_columns if transposed else _rows)(packed, state, EIGHTH / scale, out, state.shape)  # type: ignore[attr-defined]


@triton.jit(do_not_specialize=["M"])  # one kernel for all lengths of a batch
def _product_kernel(
    x, w, h, b, y, x_scales, w_scales, M, N, K, R, BESIDE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr, RANK: tl.constexpr, PROGRAMS: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    across = tl.cdiv(N, COLUMNS)
    # Programs that run at once share rows and columns: what one read, others find in the cache.
    for tile in tl.range(tl.program_id(0), tl.cdiv(M, ROWS) * across, PROGRAMS):
        first = tile // (GROUP * across) * GROUP
        group = min(tl.cdiv(M, ROWS) - first, GROUP)
        top = (first + tile % (GROUP * across) % group) * ROWS
        left = tile % (GROUP * across) // group * COLUMNS
        sums = tl.zeros((ROWS, COLUMNS), dtype=tl.int32)
        for k in range(0, K, DEPTH):
            sums = tl.dot(x.load([top, k]), w.load([left, k]).T, sums, out_dtype=tl.int32)
        row, column = top + tl.arange(0, ROWS), left + tl.arange(0, COLUMNS)
        value = sums.to(tl.float32) * tl.load(x_scales + row, mask=row < M, other=0.0)[:, None]
        value *= tl.load(w_scales + column, mask=column < N, other=0.0)[None, :]
        if BESIDE:
            for r in range(0, R, RANK):
                value = tl.dot(h.load([top, r]), b.load([left, r]).T, value, input_precision="ieee")
        # In two halves: the whole would not fit shared memory beside what the next tile fetches.
        value = tl.permute(tl.reshape(value, (ROWS, 2, COLUMNS // 2)), (0, 2, 1))
        one, other = tl.split(value)
        y.store([top, left], one.to(y.dtype))
        y.store([top, left + COLUMNS // 2], other.to(y.dtype))


def product(
    x: Tensor,
    x_scale: Tensor,
    w: Tensor,
    w_scale: Tensor,
    dtype: torch.dtype,
    beside: tuple[Tensor, Tensor] | None,
    tile: tuple[int, int, int, int] | None = None,
) -> Tensor:
    """`int8.product` on the card, in tiles of `tile`; None: as its generation wants."""
    (rows, inner), columns = x.shape, w.shape[0]
    high, wide, depth, stages = tile or _tile(x.device)
    y = torch.empty(rows, columns, dtype=dtype, device=x.device)
    rank = 16 if beside is None else min(64, max(16, triton.next_power_of_2(beside[0].shape[1])))
    described = TensorDescriptor.from_tensor
    h, b = (None, None) if beside is None else beside
    programs = _multiprocessors(x.device)
    _product_kernel[(programs,)](
        described(x, [high, depth]),
        described(w, [wide, depth]),
        None if h is None else described(h, [high, rank]),
        None if b is None else described(b, [wide, rank]),
        described(y, [high, wide // 2]),
        x_scale, w_scale, rows, columns, inner, 0 if h is None else h.shape[1], h is not None,
        high, wide, depth, rank, programs, 8, num_stages=stages, num_warps=8,
    )  # fmt: skip
    return y


def _multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 4


def _tile(device: torch.device) -> tuple[int, int, int, int]:
    """Measured on Hopper; others have less shared memory, or want a tile by which nothing was measured."""
    hopper = device.type == "cuda" and torch.cuda.get_device_capability(device)[0] == 9
    return WIDE_TILE if hopper else SMALL_TILE
