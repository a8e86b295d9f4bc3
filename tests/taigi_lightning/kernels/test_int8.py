"""Rotating and rounding to int8, and products of what was rounded."""

from types import ModuleType

import pytest
import torch

from taigi_lightning.kernels import fp8, int8
from taigi_lightning.kernels.int8 import BLOCK, fault, hadamard, product, quantise_rows, scale_of, transformed

CPU = torch.device("cpu")


def error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


def test_the_matrix_rotates() -> None:
    matrix = hadamard(CPU, torch.float32)
    assert torch.equal(matrix @ matrix.t(), BLOCK * torch.eye(BLOCK))
    assert torch.equal(matrix, matrix.t())
    x = torch.randn(3, 192)
    torch.testing.assert_close(transformed(x).norm(dim=1), 8 * x.norm(dim=1))
    torch.testing.assert_close(transformed(transformed(x)) / BLOCK, x)


def test_no_row_is_lost_to_its_neighbours_or_to_one_large_value() -> None:
    torch.manual_seed(0)
    x = torch.randn(6, 128) * torch.tensor([1e-12, 1e-3, 1.0, 1e6, 0.0, 1.0])[:, None]
    x[5, 9] = 100.0
    rounded, scale = quantise_rows(x)
    assert rounded.dtype == torch.int8 and scale.shape == (6, 1)
    back = transformed(rounded.float() * scale) / BLOCK**0.5
    for row in (0, 1, 2, 3, 5):
        assert error(back[row], x[row]) < 0.015
    assert (back[4] == 0).all()


def test_a_product_is_nearer_than_that_of_e4m3() -> None:
    torch.manual_seed(0)
    x, w = torch.randn(64, 256), torch.randn(128, 256)
    x[:, 17] *= 30  # a channel like those of real activations
    wanted = x @ w.t()
    found = product(*quantise_rows(x), *quantise_rows(w), torch.float32)
    coarser = fp8.product(*fp8.quantise_rows(x), *fp8.quantise_rows(w), torch.float32)
    assert error(found, wanted) < 0.015
    assert error(coarser, wanted) > 0.03


def test_what_is_added_is_not_rounded() -> None:
    torch.manual_seed(0)
    parts = *quantise_rows(torch.randn(4, 64)), *quantise_rows(torch.randn(64, 64))
    h, b = torch.randn(4, 8), torch.randn(64, 8)
    found = product(*parts, torch.float32, (h, b)) - product(*parts, torch.float32)
    torch.testing.assert_close(found, h @ b.t(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_does_not_come_out_finite(bad: float) -> None:
    x = torch.ones(2, 64)
    x[1, 3] = bad
    y = product(*quantise_rows(x), *quantise_rows(torch.ones(64, 64)), torch.float32)
    assert torch.isfinite(y[0]).all() and not torch.isfinite(y[1]).any()


@pytest.mark.parametrize("form", [fp8, int8])
def test_no_rows_give_no_rows(form: ModuleType) -> None:
    weight = form.quantise_rows(torch.randn(64, 128))
    assert form.product(*form.quantise_rows(torch.empty(0, 128)), *weight, torch.float32).shape == (0, 64)


def test_the_largest_takes_the_last_step() -> None:
    amax = torch.tensor([1e-3, 1.0, 5e4])
    torch.testing.assert_close(scale_of(amax) * 127 * BLOCK**0.5, amax)


def test_a_cpu_is_no_place_for_it() -> None:
    assert "CPU" in str(fault(CPU, torch.bfloat16))


@pytest.mark.parametrize(
    ("capability", "dtype", "said"),
    [
        ((7, 5), torch.bfloat16, "capability 7.5, and this begins with 8.0"),
        ((8, 0), torch.float32, "all else is in float32"),
        ((8, 6), torch.float16, "all else is in float16"),
        ((8, 0), torch.bfloat16, None),
        ((12, 0), torch.bfloat16, None),
    ],
)
def test_a_card_must_multiply_it_and_the_rest_be_in_bfloat16(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], dtype: torch.dtype, said: str | None
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "A card")
    monkeypatch.setattr("taigi_lightning.kernels.int8.triton_fault", lambda: None)
    found = fault(torch.device("cuda"), dtype)
    assert (found is None) if said is None else (said in str(found))


@pytest.mark.parametrize("form", [fp8, int8])
def test_a_card_of_amd_is_none_of_theirs(monkeypatch: pytest.MonkeyPatch, form: ModuleType) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 4))
    monkeypatch.setattr(torch.version, "hip", "7.0")
    assert "this is an AMD card, and" in form.fault(torch.device("cuda"), torch.bfloat16)


def test_a_card_without_triton_has_no_kernel_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))
    monkeypatch.setattr("taigi_lightning.kernels.int8.triton_fault", lambda: "ImportError: no triton")
    assert "no triton" in str(fault(torch.device("cuda"), torch.bfloat16))
