"""Compile every Triton kernel for each generation of cards, as the functions around it launch it; no GPU is needed.

python -m tests.taigi_lightning.kernels.compile_kernels [--few]     # {"capability", "kernel", "dtype", "shared"} a line
"""

import json
import sys
from typing import Any, get_args

import bitsandbytes as bnb
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from taigi_lightning.kernels import elementwise_triton as ops
from taigi_lightning.kernels import fp8_triton, int8_triton, nf4_triton, projection_triton
from taigi_lightning.kernels.elementwise import Activation, Dropout, HeadNorms, LoraGradient, Norm
from taigi_lightning.kernels.fp8 import DTYPE

CAPABILITIES = (75, 80, 86, 89, 90, 100, 120)
# --few: the oldest, one between and the newest, and each dtype once.
FEW = {75: torch.float16, 90: torch.bfloat16, 120: torch.float32}
ROWS, WIDE, VOCABULARY = 4, 1408, 5000
ANY_ROWS = (128, 100, 1)  # of questions: Triton would compile a kernel for each kind of number
HIDDEN, HEAD_SIZES = (8192, 3840, 640), (256, 128, 64)  # the widest programs first
DROPOUT = Dropout(0.1, 7)


class Card:
    """Stands in for Triton's driver: all that it knows of a card is its generation."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return self.capability  # Triton keeps what it compiled by device

    def get_current_stream(self, device: int) -> int:
        return 0


def lora(columns: int, dtype: torch.dtype, rows: int = ROWS, rank: int = 16) -> LoraGradient:
    return torch.ones(rows, rank, dtype=dtype), torch.ones(rank, columns, dtype=dtype)


def products(dtype: torch.dtype, every_variant: bool) -> None:
    """With as many rows as these kernels ask for, and as wide a LoRA as they take."""
    rows, rank = projection_triton.FEWEST, projection_triton.WIDEST
    beside = torch.empty(rows, 512 + rank, dtype=dtype)
    out, hidden = beside[:, :512], beside[:, 512:]
    x, gate_up = torch.ones(rows, 512, dtype=dtype), torch.ones(rows, 1024, dtype=dtype)
    _, a = through = lora(512, dtype, rows, rank)
    ops.glu_project(gate_up, out, hidden, a, DROPOUT, "gelu_tanh")
    ops.drop_backward_project(out, through, hidden, x, DROPOUT)
    if every_variant:
        ops.copy_project(x, out, hidden, a, DROPOUT)


def norms(hidden: int, dtype: torch.dtype, every_variant: bool) -> None:
    x, delta = torch.ones(ROWS, hidden, dtype=dtype), torch.ones(ROWS, hidden, dtype=dtype)
    out = torch.empty(ROWS, hidden + 64, dtype=dtype)[:, :hidden]
    plain, one_plus = Norm(x[0], 1e-5), Norm(x[0], 1e-5, one_plus=True)
    for norm, post in ((one_plus, one_plus), (None, plain))[: 1 + every_variant]:
        ops.add_rms_norm(x, delta, norm, out, DROPOUT, post)
        ops.add_rms_norm_backward(out, lora(hidden, dtype), x, x, post, norm, x, DROPOUT)
    if every_variant:
        ops.rms_norm(x, plain, out, DROPOUT)
        ops.rms_norm_backward(out, lora(hidden, dtype), x, plain, x, DROPOUT)
        ops.norm_gradient(out, x, one_plus)
        ops.add_rms_norm(x, delta, plain, out, DROPOUT)


def rotations(size: int, dtype: torch.dtype, every_variant: bool) -> None:
    q, angle = torch.ones(ROWS, 8, size, dtype=dtype), torch.ones(ROWS, size, dtype=dtype)
    every = torch.ones(ROWS, 24, size, dtype=dtype)
    ops.rotate(q, angle, angle, q)
    ops.rotate_back(q, q, q, angle, angle, every)
    for whole, one_plus in ((True, False), (False, True))[: 1 + every_variant]:
        norm = Norm(torch.ones(8 * size if whole else size, dtype=dtype), 1e-6, one_plus)
        norms = HeadNorms(norm, norm, whole)
        ops.norm_rotate(every[:, :16], 8, norms, angle, angle, every[:, :16])
        ops.norm_rotate_back(q, q, q, every[:, :16], norms, angle, angle, every)


def others(dtype: torch.dtype, every_variant: bool) -> None:
    x = torch.ones(ROWS, WIDE, dtype=dtype)
    out, gate_up = (
        torch.empty(ROWS, WIDE + 64, dtype=dtype)[:, :WIDE],
        torch.ones(ROWS, 2 * WIDE, dtype=dtype),
    )
    ops.copy_drop(x, out, DROPOUT)
    ops.drop_backward(out, lora(WIDE, dtype), x, DROPOUT)
    ops.gather_rows(x, torch.zeros(ROWS, dtype=torch.int64))
    for activation in get_args(Activation)[::-1][: 1 + every_variant]:
        ops.glu(gate_up, out, DROPOUT, activation)
        ops.glu_backward(out, lora(WIDE, dtype), gate_up, DROPOUT, activation)
    ops.softmax_loss_(torch.ones(ROWS, VOCABULARY, dtype=dtype), torch.zeros(ROWS, dtype=torch.int64), -100)


def weights(dtype: torch.dtype) -> None:
    for nested in (True, False):
        packed, state = bnb.functional.quantize_4bit(
            torch.ones(16, 512), quant_type="nf4", blocksize=64, compress_statistics=nested
        )
        nf4_triton.unpack(packed, state, torch.empty(16, 576, dtype=dtype)[:, :512])
    b = torch.ones(32, 16)
    nf4_triton.write_sides([(b, 2.0)] * 3, [32] * 3, torch.empty(96, 560, dtype=dtype)[:, 512:])
    nf4_triton.stack_rows([torch.ones(16, 512)] * 3, 48, dtype)


def floats_of_8_bits(dtype: torch.dtype) -> None:
    """Those of fp8, which cards of 8.9 and more have, beside bfloat16 alone."""
    fp8_triton.quantise_rows(torch.ones(ROWS, WIDE, dtype=dtype))
    for nested in (True, False):
        packed, state = bnb.functional.quantize_4bit(
            torch.ones(128, 512), quant_type="nf4", blocksize=64, compress_statistics=nested
        )
        fp8_triton.unpack_rows(packed, state, torch.ones(128, 1), torch.empty(128, 512, dtype=DTYPE))
        fp8_triton.unpack_columns(packed, state, torch.ones(512, 1), torch.empty(512, 128, dtype=DTYPE))


def integers_of_8_bits(dtype: torch.dtype, capability: int) -> None:
    """Those of int8, which cards of 8.0 and more have, beside bfloat16 alone."""
    for columns in (16384, 57344):  # read once, and twice
        for rows in ANY_ROWS:
            int8_triton.quantise_rows(torch.ones(rows, columns, dtype=dtype))
    packed, state = bnb.functional.quantize_4bit(
        torch.ones(128, 512), quant_type="nf4", blocksize=64, compress_statistics=True
    )
    int8_triton.largest(packed, state)
    for shape, transposed in (((128, 512), False), ((512, 128), True)):
        scale = torch.ones(shape[0], 1)
        int8_triton.write(packed, state, scale, torch.empty(shape, dtype=torch.int8), transposed)
    w, scale = torch.ones(128, 256, dtype=torch.int8), torch.ones(128, 1)
    tile = int8_triton.WIDE_TILE if capability == 90 else int8_triton.SMALL_TILE
    for rows in ANY_ROWS:
        x = torch.ones(rows, 256, dtype=torch.int8)
        for beside in (None, (torch.ones(rows, 64, dtype=dtype), torch.ones(128, 64, dtype=dtype))):
            int8_triton.product(x, scale, w, scale, dtype, beside, tile)


def launch_all(dtype: torch.dtype, everything: bool) -> None:
    """Call everything that launches a kernel, with the options of training; everything: in each size and variant."""
    for hidden in HIDDEN if everything else HIDDEN[:1]:
        norms(hidden, dtype, everything)
    for size in HEAD_SIZES if everything else HEAD_SIZES[:1]:
        rotations(size, dtype, everything)
    others(dtype, everything)
    products(dtype, everything)
    weights(dtype)


def main() -> None:
    real, row = JITFunction.run, {"capability": 0, "dtype": ""}

    def compile_only(kernel: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        compiled = real(kernel, *args, grid=grid, warmup=True, **options)
        found = {"kernel": kernel.__name__, "module": kernel.__module__, "hash": compiled.hash}
        print(json.dumps({**row, **found, "shared": compiled.metadata.shared}))
        return compiled

    JITFunction.run = compile_only
    few = sys.argv[1:] == ["--few"]
    for capability in FEW if few else CAPABILITIES:
        triton.runtime.driver.set_active(Card(capability))
        # A T4 trains in float16: it has no bfloat16.
        dtypes = [torch.float16, torch.float32] + [torch.bfloat16] * (capability >= 80)
        for dtype in [FEW[capability]] if few else dtypes:
            row.update(capability=capability, dtype=str(dtype))
            # Where shared memory is least: other generations differ in instructions, not in sizes.
            launch_all(dtype, everything=dtype is dtypes[0] and capability in (75, 120))
            if capability >= 80 and dtype == torch.bfloat16:
                integers_of_8_bits(dtype, capability)
            if capability >= 89 and dtype == torch.bfloat16:
                floats_of_8_bits(dtype)


if __name__ == "__main__":
    main()
