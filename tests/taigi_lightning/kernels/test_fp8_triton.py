"""The kernels that make what fp8 products multiply, interpreted on the CPU, against plain torch.

Triton's interpreter rounds to e4m3 otherwise than cards do: here the kernels store wider numbers, and torch rounds.
"""

from types import ModuleType

import bitsandbytes as bnb
import pytest
import torch

from taigi_lightning.kernels import fp8
from tests.taigi_lightning.kernels.interpreted import interpreted


@pytest.fixture(scope="module")
def kernels() -> ModuleType:
    return interpreted("fp8_triton")


@pytest.mark.parametrize(("rows", "columns"), [(5, 96), (3, 1100)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_get_the_scales_and_values_of_plain_torch(
    kernels: ModuleType, rows: int, columns: int, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    wide = torch.randn(rows, columns + 8, dtype=dtype) * torch.logspace(-9, 4, rows)[:, None]
    wide[0] = 0.0
    x = wide[:, :columns].to(dtype)
    found, scales = kernels.quantise_rows(x, torch.float32)
    rounded, wanted = fp8.quantise_rows(x)
    assert torch.equal(scales, wanted)
    assert torch.equal(found.to(fp8.DTYPE).float(), rounded.float())


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_spoils_its_row_alone(kernels: ModuleType, bad: float) -> None:
    """Cards round infinity to 448, so that a product would be finite."""
    x = torch.ones(3, 96)
    x[1, 70] = bad
    _, scales = kernels.quantise_rows(x, torch.float32)
    assert scales.isfinite().flatten().tolist() == [True, False, True]


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize(("rows", "columns"), [(3, 64), (5, 2112), (140, 128)])
def test_a_weight_is_the_same_in_both_layouts(
    kernels: ModuleType, rows: int, columns: int, nested: bool
) -> None:
    torch.manual_seed(rows)
    packed, state = bnb.functional.quantize_4bit(
        torch.randn(rows, columns), quant_type="nf4", blocksize=64, compress_statistics=nested
    )
    whole = bnb.functional.dequantize_4bit(packed, state)
    by_row = fp8.scale_of(whole.abs().amax(1))
    blocks = whole.abs().amax(0).view(-1, 64).amax(1)
    by_column = fp8.scale_of(blocks).repeat_interleave(64)
    forward = torch.empty(rows, columns)
    kernels.unpack_rows(packed, state, by_row, forward)
    wide = torch.full((columns, rows + 16), 7.0)
    kernels.unpack_columns(packed, state, by_column, wide[:, 16:])
    torch.testing.assert_close(forward * by_row[:, None], whole, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(wide[:, 16:].t() * by_column, whole, rtol=1e-6, atol=1e-7)
    assert (wide[:, :16] == 7.0).all()
    one, other = (x.to(fp8.DTYPE).float() for x in (forward, wide[:, 16:].t()))
    assert torch.equal(one * by_row[:, None], other * by_column)
