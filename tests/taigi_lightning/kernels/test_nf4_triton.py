"""The kernels that prepare [W | B], interpreted on the CPU, against bitsandbytes and plain torch."""

from types import ModuleType

import bitsandbytes as bnb
import pytest
import torch

from tests.taigi_lightning.kernels.interpreted import interpreted


@pytest.fixture(scope="module")
def kernels() -> ModuleType:
    return interpreted("nf4_triton")


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize(("rows", "columns"), [(3, 64), (5, 2112), (300, 192)])
def test_a_weight_unpacks_to_what_bitsandbytes_makes_of_it(
    kernels: ModuleType, rows: int, columns: int, nested: bool
) -> None:
    torch.manual_seed(rows)
    packed, state = bnb.functional.quantize_4bit(
        torch.randn(rows, columns), quant_type="nf4", blocksize=64, compress_statistics=nested
    )
    wide = torch.full((rows, columns + 8), 7.0)
    kernels.unpack(packed, state, wide[:, :columns])
    wanted = bnb.functional.dequantize_4bit(packed, state)
    torch.testing.assert_close(wide[:, :columns], wanted, rtol=1e-6, atol=1e-7)
    assert (wide[:, columns:] == 7.0).all()


@pytest.mark.parametrize(
    ("rows", "ranks"), [((32, 8, 8), (4, 4, 4)), ((20, 20), (3, None)), ((17,), (8,)), ((5, 6), (None, 2))]
)
def test_loras_b_matrices_go_on_the_block_diagonal(
    kernels: ModuleType, rows: tuple[int, ...], ranks: tuple[int | None, ...]
) -> None:
    torch.manual_seed(0)
    scales = [2.0, 0.5, 1.5][: len(rows)]
    matrices = [None if r is None else torch.randn(n, r) for n, r in zip(rows, ranks, strict=True)]
    width = 16
    wide = torch.full((sum(rows), width + 4), 7.0)
    kernels.write_sides(list(zip(matrices, scales, strict=True)), list(rows), wide[:, 4:])
    blocks = [
        torch.zeros(n, 0) if b is None else b * s for n, b, s in zip(rows, matrices, scales, strict=True)
    ]
    diagonal = torch.block_diag(*blocks)
    wanted = torch.zeros(sum(rows), width)
    wanted[:, : diagonal.shape[1]] = diagonal
    torch.testing.assert_close(wide[:, 4:], wanted)
    assert (wide[:, :4] == 7.0).all()


@pytest.mark.parametrize("heights", [(4, 4, 4), (3, 2), (5,)])
def test_loras_a_matrices_stand_above_one_another(kernels: ModuleType, heights: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    parts = [torch.randn(rows, 1100) for rows in heights]
    found = kernels.stack_rows(parts, 16, torch.float16)
    assert torch.equal(found[: sum(heights)], torch.cat(parts).to(torch.float16))
    assert not found[sum(heights) :].any()
