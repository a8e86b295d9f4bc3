"""Transformers' own layers attend through ours just where a mask says no more than documents and a window."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface

from taigi_lightning.fast_path import own_attention
from taigi_lightning.fast_path.own_attention import Masks, read_mask
from tests.taigi_lightning.fast_path.document_masks import HEADS, B, D, T, counted, mask_of

Attend = Callable[..., tuple[Tensor, Tensor | None]]


class Module(nn.Module):
    """As much of an attention as its functions ask for."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.num_key_value_groups = groups


def drawn(groups: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """q, k and v (B, heads, T, D) as layers make them, by tokens in memory; v a part of something wider."""
    generator = torch.Generator().manual_seed(0)
    sizes = [(HEADS, D), (HEADS // groups, D), (HEADS // groups, 2 * D)]
    made = [torch.randn(B, T, *size, generator=generator).to(dtype)[..., :D] for size in sizes]
    return [x.transpose(1, 2).requires_grad_() for x in made]


def results(
    attend: Attend, groups: int, *args: Any, given: list[Tensor] | None = None, **options: Any
) -> Any:
    """What it gives and the gradients of q, k and v, and whether it was computed by documents."""
    given = given or drawn(groups)
    out, weights = attend(Module(groups), *given, *args, **options)
    assert weights is None and out.is_contiguous()
    ours = "_Attention" in str(out.grad_fn)
    return [out.detach(), *torch.autograd.grad(out.sin().sum(), given)], ours


def ours() -> Attend:
    return own_attention._attention_by(Masks())


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("scaling", [None, 0.3, 1])
@pytest.mark.parametrize(
    "mask", [mask_of([4, 5], [1, 7, 1]), mask_of([9], [9], window=3), mask_of([2, 7], [9], window=1)]
)
def test_it_gives_what_transformers_does(mask: Tensor, scaling: float | None, groups: int) -> None:
    options: dict[str, Any] = {"dropout": 0.0, "scaling": scaling, "sliding_window": 3, "is_causal": False}
    found, by_documents = results(ours(), groups, mask[:, None], **options)
    wanted, _ = results(sdpa_attention_forward, groups, mask[:, None], **options)
    assert by_documents
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_under_autocast_it_computes_in_what_sdpa_does() -> None:
    given = drawn(2)
    given[0] = given[0].detach().bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        found, by_documents = results(ours(), 2, MASK, given=given)
        wanted, _ = results(sdpa_attention_forward, 2, MASK, given=given)
    assert by_documents
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other, rtol=2e-2, atol=2e-2)


def wide_values() -> list[Tensor]:
    """q and k, and v of twice their size."""
    return [*drawn(2)[:2], torch.randn(B, HEADS // 2, T, 2 * D, requires_grad=True)]


MASK = mask_of([4, 5], [1, 7, 1])[:, None]


@pytest.mark.parametrize(
    ("args", "options", "given"),
    [
        ([MASK], {"dropout": 0.3}, None),
        ([MASK, 0.0], {}, None),
        ([MASK], {"position_bias": torch.ones(B, HEADS, T, T).tril(-2)}, None),
        ([MASK], {"s_aux": torch.ones(HEADS)}, None),  # sinks, of which SDPA's function knows nothing
        ([MASK], {"new_in_some_version": 2.0}, None),
        ([MASK], {}, wide_values()),
        ([torch.zeros(MASK.shape).masked_fill(~MASK, -1e9)], {}, None),
        ([MASK.expand(B, HEADS, T, T)], {}, None),
        ([MASK[:1]], {}, None),
        ([MASK | MASK.mT], {}, None),
        ([None], {"is_causal": True}, None),
    ],
)
def test_what_asks_for_more_goes_through_transformers_function(
    args: list[Any], options: dict[str, Any], given: list[Tensor] | None
) -> None:
    torch.manual_seed(0)
    wanted, _ = results(sdpa_attention_forward, 2, *args, given=given, **options)
    torch.manual_seed(0)
    found, by_documents = results(ours(), 2, *args, given=given, **options)
    assert not by_documents
    assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))


def test_capped_scores_are_refused_as_by_transformers_function() -> None:
    with pytest.raises(ValueError, match="softcap"):
        ours()(Module(2), *drawn(2), MASK, softcap=30.0)


def test_keys_of_a_cache_and_one_query_go_through_transformers_function() -> None:
    q, k, v = drawn(2)
    for rows in (slice(T - 1, T), slice(4, T)):
        mask = mask_of([4, 5], [1, 7, 1])[:, None, rows]
        found, _ = ours()(Module(2), q[:, :, rows], k, v, mask)
        torch.testing.assert_close(found, sdpa_attention_forward(Module(2), q[:, :, rows], k, v, mask)[0])
        assert "_Attention" not in str(found.grad_fn)


def test_masks_that_may_change_unseen_are_not_read() -> None:
    with torch.inference_mode():
        mask = mask_of([4, 5], [1, 7, 1])[:, None]
        before, _ = ours()(Module(2), *drawn(2), mask)
        torch.testing.assert_close(before, sdpa_attention_forward(Module(2), *drawn(2), mask)[0])
        attend, given = ours(), drawn(2)
        attend(Module(2), *given, mask)
        mask[:, :, 8, 0] = True
        torch.testing.assert_close(
            attend(Module(2), *given, mask)[0], sdpa_attention_forward(Module(2), *given, mask)[0]
        )


def test_a_second_derivative_is_refused_not_wrong() -> None:
    q, k, v = drawn(1)
    out, _ = ours()(Module(1), q, k, v, mask_of([9], [9])[:, None])
    (grad,) = torch.autograd.grad(out.sin().sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()  # type: ignore[no-untyped-call]


def test_functions_that_were_put_in_place_of_transformers_are_called(monkeypatch: pytest.MonkeyPatch) -> None:
    attend = ours()

    def other(module: Any, query: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
        return query.transpose(1, 2) * 2.0, None

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, "sdpa", other)
    given = drawn(2)
    assert torch.equal(attend(Module(2), *given, MASK)[0], given[0].transpose(1, 2) * 2.0)


def test_functions_that_are_registered_later_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    table = own_attention._instead(ALL_ATTENTION_FUNCTIONS, Masks())
    assert table is not None
    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._local_mapping, "here", max)
    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, "everywhere", min)
    assert (table.get_interface("here", None), table.get_interface("everywhere", None)) == (max, min)
    assert table.get_interface("eager", sum) is sum
    assert table.get_interface("sdpa", None) is table["sdpa"] is not sdpa_attention_forward
    with pytest.raises(KeyError):
        table.get_interface("nowhere", None)
    assert own_attention._instead(AttentionInterface(), Masks()) is None  # a class's own


def test_compiled_it_is_transformers_function() -> None:
    compiled = torch.compile(ours(), backend="eager")
    found, by_documents = results(compiled, 2, MASK)
    wanted, _ = results(sdpa_attention_forward, 2, MASK)
    assert not by_documents
    assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_traced_it_is_transformers_function(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is recorded is computed with other masks later; so it is with a CUDA graph, where the stream is asked."""
    calls, given = counted(monkeypatch, "attend"), drawn(1)
    attention, module = ours(), Module(1)

    class Whole(nn.Module):
        def forward(self, *tensors: Tensor) -> Tensor:
            return attention(module, *tensors, scaling=0.5)[0]

    first, second = (mask_of(*rows)[:, None] for rows in (([4, 5], [9]), ([2, 7], [8, 1])))
    traced = torch.jit.trace(Whole(), (*given, first), check_trace=False)  # type: ignore[no-untyped-call]
    wanted = sdpa_attention_forward(module, *given, second, scaling=0.5)[0]
    torch.testing.assert_close(traced(*given, second), wanted)
    assert not calls


def test_more_documents_than_a_kernel_takes_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_attention, "MOST_DOCUMENTS", 4)
    assert read_mask(mask_of([4, 5], [8, 1])) is not None
    assert read_mask(mask_of([4, 5], [7, 1, 1])) is None
