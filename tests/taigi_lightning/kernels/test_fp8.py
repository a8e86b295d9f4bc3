"""Rounding to e4m3 with scales that are powers of two, and products of what was rounded."""

import pytest
import torch

from taigi_lightning.kernels.fp8 import DTYPE, fault, product, quantise_rows, scale_of

LARGEST = torch.finfo(DTYPE).max


@pytest.mark.parametrize("size", [1e-30, 3e-4, 1.0, 447.9, 448.0, 448.1, 1e30])
def test_a_scale_is_the_least_power_of_two_that_fits(size: float) -> None:
    amax = torch.tensor([size])
    scale = scale_of(amax)
    assert float(torch.frexp(scale).mantissa) == 0.5
    assert amax / scale <= LARGEST < 2 * amax / scale


def test_no_row_is_lost_to_its_neighbours() -> None:
    torch.manual_seed(0)
    x = torch.randn(5, 96) * torch.tensor([1e-12, 1e-3, 1.0, 1e6, 0.0])[:, None]
    rounded, scale = quantise_rows(x)
    assert rounded.dtype == DTYPE and scale.shape == (5, 1)
    back = rounded.float() * scale
    # Three bits of mantissa: half a unit in the last place is a sixteenth, of numbers that are not the row's smallest.
    assert ((back - x).abs() <= x.abs() / 16 + scale * 2**-10).all()
    assert (back[4] == 0).all()
    assert float((back - x)[:4].norm() / x[:4].norm()) < 0.03


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_does_not_come_out_finite(bad: float) -> None:
    x = torch.ones(2, 32)
    x[1, 3] = bad
    w = quantise_rows(torch.ones(16, 32))
    y = product(*quantise_rows(x), *w, torch.float32)
    assert torch.isfinite(y[0]).all() and not torch.isfinite(y[1]).any()


def test_a_product_of_numbers_that_e4m3_holds_is_exact() -> None:
    torch.manual_seed(0)
    x, w = (torch.randint(-8, 9, size).float() for size in ((6, 64), (32, 64)))
    x[:, 0] = 14.0  # of which the scale is none of the others'
    y = product(*quantise_rows(4 * x), *quantise_rows(w / 1024), torch.float32)
    assert torch.equal(y, (4 * x) @ (w / 1024).t())


def test_a_cpu_is_no_place_for_fp8() -> None:
    assert "CPU" in str(fault(torch.device("cpu"), torch.bfloat16))


@pytest.mark.parametrize(
    ("capability", "dtype", "said"),
    [
        ((8, 0), torch.bfloat16, "capability 8.0"),
        ((7, 5), torch.float16, "capability 7.5"),
        ((9, 0), torch.float32, "all else is in float32"),
        ((8, 9), torch.float16, "all else is in float16"),
        ((8, 9), torch.bfloat16, None),
        ((12, 0), torch.bfloat16, None),
    ],
)
def test_a_card_must_multiply_it_and_the_rest_be_in_bfloat16(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], dtype: torch.dtype, said: str | None
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "A card")
    found = fault(torch.device("cuda"), dtype)
    assert (found is None) if said is None else (said in str(found))
