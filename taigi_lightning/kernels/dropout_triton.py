"""Dropout's mask inside Triton kernels: the hash of `elementwise.keep_mask`."""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

import triton
import triton.language as tl


@triton.jit
def row_key(row, seed):
    x = row * -2048144789 + seed
    x = (x ^ ((x >> 16) & 0xFFFF)) * 0x7FEB352D
    x = (x ^ ((x >> 15) & 0x1FFFF)) * -2073254261
    return x ^ ((x >> 16) & 0xFFFF)


@triton.jit
def keep_element(row_key, column, THRESHOLD: tl.constexpr):
    x = row_key ^ (column * -1640531535)
    x = (x ^ ((x >> 16) & 0xFFFF)) * 0x7FEB352D
    x = (x ^ ((x >> 15) & 0x1FFFF)) * -2073254261
    return ((x >> 8) & 0xFFFFFF) >= THRESHOLD


@triton.jit
def drop_element(x, row, column, seed, THRESHOLD: tl.constexpr, SCALE: tl.constexpr):
    return tl.where(keep_element(row_key(row, seed), column, THRESHOLD), x * SCALE, 0.0)
