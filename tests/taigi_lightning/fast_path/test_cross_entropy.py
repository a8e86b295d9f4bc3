"""The sliced loss equals transformers' over whole logits, with its gradients."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from taigi_lightning.fast_path import cross_entropy as loss
from taigi_lightning.fast_path.cross_entropy import linear_cross_entropy_sum
from taigi_lightning.fast_path.output_head import OutputHead
from taigi_lightning.kernels import elementwise


@pytest.mark.parametrize("tokens", [5, 2048])
def test_it_equals_cross_entropy_over_all_logits(tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss, "slice_tokens", lambda _: tokens)
    torch.manual_seed(0)
    hidden = torch.randn(2, 9, 16, requires_grad=True)
    weight = torch.randn(31, 16, requires_grad=True)
    labels = torch.randint(0, 31, (2, 9))
    labels[0, :4] = -100
    logits = (hidden @ weight.t())[:, :-1].reshape(-1, 31)
    wanted = torch.nn.functional.cross_entropy(logits, labels[:, 1:].reshape(-1), reduction="sum")
    wanted_gradients = torch.autograd.grad(wanted / 13, [hidden, weight])
    total = linear_cross_entropy_sum(hidden, weight, labels)
    assert total.dtype == torch.float32
    torch.testing.assert_close(total, wanted)
    found = torch.autograd.grad(total / 13, [hidden, weight])
    for mine, theirs in zip(found, wanted_gradients, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("cap", [None, 2.0])
def test_all_slices_of_logits_share_one_slice_of_memory(
    cap: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss, "slice_tokens", lambda _: 4)
    seen = []

    def watched(logits: torch.Tensor, *given: Any) -> torch.Tensor:
        seen.append((logits.data_ptr(), len(logits)))
        return elementwise.softmax_loss_(logits, *given)

    monkeypatch.setattr(loss, "_operations", lambda _: SimpleNamespace(softmax_loss_=watched))
    hidden = torch.randn(1, 18, 16, requires_grad=True)
    linear_cross_entropy_sum(hidden, OutputHead(torch.randn(31, 16), cap=cap), torch.arange(18)[None])
    assert {place for place, _ in seen} == {seen[0][0]}
    # A cap's own gradient is as large as the logits: half as many are made then.
    assert [rows for _, rows in seen] == ([4, 4, 4, 4, 2] if cap is None else [2] * 9)


def test_a_second_backward_pass_is_refused_rather_than_wrong() -> None:
    hidden = torch.randn(1, 4, 8, requires_grad=True)
    total = linear_cross_entropy_sum(hidden, torch.randn(11, 8), torch.tensor([[1, 2, 3, 4]]))
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="inplace"):
        total.backward()


def test_no_supervised_token_gives_zero() -> None:
    hidden = torch.randn(1, 4, 8, requires_grad=True)
    total = linear_cross_entropy_sum(hidden, torch.randn(11, 8), torch.full((1, 4), -100))
    total.backward()
    assert total.item() == 0.0
    assert not hidden.grad.any()  # type: ignore[union-attr]


@pytest.mark.parametrize("rows", [5, 4096])
@pytest.mark.parametrize("form", [{}, {"scale": 0.5, "cap": 2.0}, {"bias": True}])
def test_a_head_that_passes_by_part_by_part_gives_the_same_loss_and_gradient(
    rows: int, form: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss, "HEAD_ROWS", rows)
    torch.manual_seed(0)
    hidden, weight = torch.randn(2, 9, 16, requires_grad=True), torch.randn(31, 16)
    labels = torch.randint(0, 31, (2, 9))
    labels[0, :4] = -100
    given = form | ({"bias": torch.randn(31)} if "bias" in form else {})
    totals = [
        linear_cross_entropy_sum(hidden, OutputHead(weight, **given, on_host=on), labels)
        for on in (False, True)
    ]
    torch.testing.assert_close(totals[1], totals[0])
    wanted, found = (torch.autograd.grad(total / 13, hidden)[0] for total in totals)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-7)
    with torch.no_grad():
        evaluated = linear_cross_entropy_sum(hidden, OutputHead(weight, **given, on_host=True), labels)
    assert torch.equal(evaluated, totals[1].detach())


def test_a_head_that_passes_by_is_as_exact_in_16_bits() -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(1, 64, 32), torch.randn(9000, 32) * 0.3
    labels = torch.randint(0, 9000, (1, 64))
    exact = hidden.double().requires_grad_()
    wanted = torch.autograd.grad(linear_cross_entropy_sum(exact, weight.double(), labels), exact)[0]
    errors = []
    for on_host in (False, True):
        rounded = hidden.bfloat16().requires_grad_()
        total = linear_cross_entropy_sum(rounded, OutputHead(weight.bfloat16(), on_host=on_host), labels)
        found = torch.autograd.grad(total, rounded)[0]
        errors.append(float((found - wanted).norm() / wanted.norm()))
    assert errors[1] < max(1.1 * errors[0], 5e-3)
