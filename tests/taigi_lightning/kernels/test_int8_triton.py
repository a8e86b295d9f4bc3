"""The kernels of int8 products, interpreted on the CPU, against plain torch."""

from types import ModuleType

import bitsandbytes as bnb
import pytest
import torch

from taigi_lightning.kernels import int8
from tests.taigi_lightning.kernels.interpreted import interpreted

TILE = (16, 32, 32, 1)
WIDE = (16, 128, 128, 1)  # of which neither side of a weight is a multiple


@pytest.fixture(scope="module")
def kernels() -> ModuleType:
    return interpreted("int8_triton")


@pytest.mark.parametrize(("rows", "columns"), [(9, 64), (3, 1152), (3, 16448)])
def test_rows_get_the_scales_and_values_of_plain_torch(kernels: ModuleType, rows: int, columns: int) -> None:
    torch.manual_seed(0)
    wide = torch.randn(rows, columns + 8) * torch.logspace(-9, 4, rows)[:, None]
    wide[0] = 0.0
    wide[1, 7] = 1e4  # larger by far than its neighbours
    found, scales = kernels.quantise_rows(wide[:, :columns])
    wanted, wanted_scales = int8.quantise_rows(wide[:, :columns])
    torch.testing.assert_close(scales, wanted_scales, rtol=1e-5, atol=0)
    assert (found.int() - wanted.int()).abs().max() <= 1  # sums in another order may round otherwise
    assert (found != wanted).float().mean() < 0.01


@pytest.mark.parametrize("columns", [128, 16448])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_spoils_its_row_alone(kernels: ModuleType, bad: float, columns: int) -> None:
    x = torch.ones(3, columns)
    x[1, 70] = bad
    _, scales = kernels.quantise_rows(x)
    assert scales.isfinite().flatten().tolist() == [True, False, True]


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize(("rows", "columns"), [(64, 64), (192, 1216)])
def test_a_weight_is_written_either_way(kernels: ModuleType, rows: int, columns: int, nested: bool) -> None:
    torch.manual_seed(rows)
    packed, state = bnb.functional.quantize_4bit(
        torch.randn(rows, columns) * torch.rand(rows, 1),
        quant_type="nf4", blocksize=64, compress_statistics=nested,
    )  # fmt: skip
    for found, wanted in zip(kernels.largest(packed, state), int8.largest(packed, state), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=0)  # the weights are rounded to 11 bits
    by_row, by_column = (int8.scale_of(amax)[:, None] for amax in kernels.largest(packed, state))
    forward = torch.zeros(rows, columns, dtype=torch.int8)
    kernels.write(packed, state, by_row, forward, False)
    wide = torch.full((columns, rows + 16), 7, dtype=torch.int8)
    kernels.write(packed, state, by_column, wide[:, 16:], True)
    assert (wide[:, :16] == 7).all()
    for written, scale, transposed in ((forward, by_row, False), (wide[:, 16:], by_column, True)):
        wanted = torch.empty_like(written)
        int8.write(packed, state, scale, wanted, transposed)
        assert (written.int() - wanted.int()).abs().max() <= 1
        assert (written != wanted).float().mean() < 0.05
        assert written.abs().amax(1).min() == 127  # the largest of each row takes the last step


@pytest.mark.parametrize("rank", [0, 8, 72])
@pytest.mark.parametrize(
    ("rows", "columns", "inner", "tile"), [(5, 64, 64, TILE), (50, 192, 192, TILE), (1, 192, 320, WIDE)]
)
def test_a_product_has_the_scales_and_what_is_added(
    kernels: ModuleType, rows: int, columns: int, inner: int, tile: tuple[int, int, int, int], rank: int
) -> None:
    torch.manual_seed(rank)
    x, w = (torch.randint(-127, 128, (n, inner), dtype=torch.int8) for n in (rows, columns))
    x_scale, w_scale = torch.rand(rows, 1), torch.rand(columns, 1)
    beside = (torch.randn(rows, inner + rank)[:, inner:], torch.randn(columns, rank)) if rank else None
    found = kernels.product(x, x_scale, w, w_scale, torch.float32, beside, tile)
    wanted = int8.product(x, x_scale, w, w_scale, torch.float32, beside)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-3)
