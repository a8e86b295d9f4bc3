"""Rounding on the average changes nothing, and what survives of an update is measured, not assumed."""

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit

from taigi_lightning.model.merge_precision import (
    PIECE,
    measure_survival,
    nf4_round_trip,
    pool,
    round_stochastically,
)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(9527)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounding_goes_to_a_neighbour_and_keeps_the_mean(dtype: torch.dtype) -> None:
    step = torch.finfo(dtype).eps
    for sign in (1, -1):
        value = sign * (1 + step / 4)
        rounded = round_stochastically(torch.full((400_001,), value), dtype, seeded()).double()
        assert rounded.unique().abs().tolist() in ([1, 1 + step], [1 + step, 1])
        assert rounded.mean().item() == pytest.approx(value, abs=step / 200)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_values_that_the_dtype_holds_stay_as_they_are(dtype: torch.dtype) -> None:
    values = torch.randn(7, 1001, generator=seeded()).to(dtype)
    assert torch.equal(round_stochastically(values.float(), dtype, seeded()), values)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_round_trip_in_pieces_is_that_of_bitsandbytes(dtype: torch.dtype) -> None:
    weight = torch.randn(3, PIECE // 2, generator=seeded()).to(dtype)
    codes, state = quantize_4bit(weight, blocksize=64, compress_statistics=True, quant_type="nf4")
    assert torch.equal(nf4_round_trip(weight), dequantize_4bit(codes, state))


def survive(size: float, *, onto: str, stochastic: bool = True) -> tuple[float, float]:
    """Fractions kept in 16 and in 4 bits of a rank-8 update of `size` times a bfloat16 weight's norm."""
    generator = seeded()
    weight = torch.randn(1024, 2048, generator=generator).mul_(0.02).bfloat16()
    left, right = torch.randn(1024, 8, generator=generator), torch.randn(8, 2048, generator=generator)
    left *= size * weight.float().norm() / (left @ right).norm()
    start = weight if onto == "original" else nf4_round_trip(weight)
    total = torch.addmm(start.float(), left, right)
    merged = round_stochastically(total, weight.dtype, generator) if stochastic else total.bfloat16()
    survival = measure_survival(weight, start, merged, left, right)
    assert survival.size == pytest.approx(size, rel=1e-3)
    assert survival.standard_error < 0.05
    return survival.fraction_16bit, survival.fraction_4bit


@pytest.mark.parametrize("size", [0.001, 0.01, 0.1])
def test_an_update_of_the_original_weights_survives_a_second_quantisation(size: float) -> None:
    kept_16bit, kept_4bit = survive(size, onto="original")
    assert kept_16bit == pytest.approx(1, abs=0.01)
    assert kept_4bit == pytest.approx(1, abs=0.03)


def test_an_update_of_the_dequantised_weights_does_not() -> None:
    kept_16bit, kept_4bit = survive(0.01, onto="dequantized")
    assert kept_16bit == pytest.approx(1, abs=0.01)
    assert kept_4bit < 0.05


def test_rounding_to_nearest_would_undo_a_small_update() -> None:
    assert survive(0.001, onto="original", stochastic=False)[0] < 0.7


def test_an_update_of_zero_has_nothing_to_lose() -> None:
    weight = torch.randn(64, 64, generator=seeded()).bfloat16()
    nothing = torch.zeros(64, 1), torch.zeros(1, 64)
    survival = pool([measure_survival(weight, weight, weight, *nothing)] * 2)
    assert (survival.fraction_16bit, survival.fraction_4bit, survival.size) == (1, 1, 0)
