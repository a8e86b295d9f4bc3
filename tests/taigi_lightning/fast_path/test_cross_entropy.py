"""The sliced loss equals transformers' over whole logits, with its gradients."""

import pytest
import torch

from taigi_lightning.fast_path import cross_entropy as loss
from taigi_lightning.fast_path.cross_entropy import linear_cross_entropy_sum


@pytest.mark.parametrize("slice_tokens", [5, 2048])
def test_it_equals_cross_entropy_over_all_logits(slice_tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss, "SLICE_TOKENS", slice_tokens)
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
