"""`elementwise` as Triton kernels: each tensor is read once and written once, in place where that is allowed.

Same functions, same arguments, same dropout masks; `elementwise` is the specification and the tests compare.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

import torch
import triton
import triton.language as tl
from torch import Tensor

from taigi_lightning.kernels.cross_entropy_triton import softmax_loss_
from taigi_lightning.kernels.dropout_triton import COLUMNS, copy_drop, drop_backward
from taigi_lightning.kernels.glu_triton import glu, glu_backward
from taigi_lightning.kernels.head_norm_triton import norm_rotate, norm_rotate_back
from taigi_lightning.kernels.norm_triton import (
    add_rms_norm,
    add_rms_norm_backward,
    norm_gradient,
    rms_norm,
    rms_norm_backward,
)
from taigi_lightning.kernels.projection_triton import (
    copy_project,
    drop_backward_project,
    glu_project,
)
from taigi_lightning.kernels.rope_triton import rotate, rotate_back

__all__ = [
    "add_rms_norm", "add_rms_norm_backward", "copy_drop", "copy_project", "drop_backward", "drop_backward_project",
    "gather_rows", "glu", "glu_backward", "glu_project",
    "norm_gradient", "norm_rotate", "norm_rotate_back", "rms_norm", "rms_norm_backward", "rotate", "rotate_back",
    "softmax_loss_",
]  # fmt: skip


@triton.jit
def _gather_kernel(table, rows, out, H, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < H
    source = tl.load(rows + row)
    tl.store(out + row * H + column, tl.load(table + source * H + column, mask=inside), mask=inside)


def gather_rows(table: Tensor, rows: Tensor) -> Tensor:
    out = torch.empty(rows.numel(), table.shape[1], dtype=table.dtype, device=rows.device)
    _gather_kernel[(rows.numel(), triton.cdiv(table.shape[1], COLUMNS))](
        table, rows.contiguous(), out, table.shape[1], COLUMNS
    )
    return out
