"""Transformers' own layers attend through ours just where a mask says no more than documents and a window."""

from __future__ import annotations

import gc
import inspect
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface

from taigi_lightning.fast_path import own_attention
from taigi_lightning.fast_path.apply import apply_fast_path
from taigi_lightning.fast_path.attention import seen
from taigi_lightning.fast_path.own_attention import Masks, fuse_attention, read_mask
from tests.taigi_lightning.architectures.small_configs import small_config

B, T, HEADS, D = 2, 9, 4, 8
CPU = torch.device("cpu")
Attend = Callable[..., tuple[Tensor, Tensor | None]]


def mask_of(*rows: list[int], window: int | None = None) -> Tensor:
    """(B, T, T) of rows of documents of such lengths."""
    numbers = [torch.repeat_interleave(torch.arange(len(row)), torch.tensor(row)) for row in rows]
    return torch.stack([(n[:, None] == n) & seen(len(n), len(n), window, CPU) for n in numbers])


def counted(monkeypatch: pytest.MonkeyPatch, name: str) -> list[Any]:
    """Of a function of `own_attention`, what it is given from now on."""
    calls: list[Any] = []
    plain = getattr(own_attention, name)

    def function(*given: Any) -> Any:
        calls.append(given)
        return plain(*given)

    monkeypatch.setattr(own_attention, name, function)
    return calls


# ---- what a mask says ------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [None, 1, 2, 3, 4, 8, 9, 50])
@pytest.mark.parametrize("rows", [([9], [9]), ([4, 5], [1, 7, 1]), ([1] * 9, [9]), ([1, 1, 7], [3, 3, 3])])
def test_documents_and_windows_are_read_from_the_mask(
    rows: tuple[list[int], ...], window: int | None
) -> None:
    mask = mask_of(*rows, window=window)
    found = read_mask(mask)
    assert found is not None
    longest = max(length for row in rows for length in row)
    if window == 1:
        assert found.documents.starts.tolist() == list(
            range(B * T + 1)
        )  # as good: each token sees itself alone
        return
    ends = torch.tensor([length for row in rows for length in row]).cumsum(0)
    assert found.documents.starts.tolist() == [0, *ends.tolist()]
    assert found.window == (window if window is not None and window < longest else None)
    assert (found.documents.longest, found.documents.whole_rows) == (longest, rows == ([9], [9]))


def remade(mask: Tensor) -> Tensor | None:
    """What `read_mask` says of a mask as a mask again."""
    found = read_mask(mask)
    if found is None:
        return None
    numbers = found.documents.begins.cumsum(1)
    return (numbers[:, :, None] == numbers[:, None]) & seen(T, T, found.window, CPU)


@pytest.mark.parametrize("mask", [mask_of([9]), mask_of([4, 5]), mask_of([1, 7, 1], window=3)])
def test_no_single_pair_that_differs_is_overlooked(mask: Tensor) -> None:
    refused = 0
    for query in range(T):
        for key in range(T):
            other = mask.clone()
            other[0, query, key] ^= True
            found = remade(other)
            refused += found is None
            assert found is None or torch.equal(found, other)
    assert refused >= T * T - 2 * T


def others() -> dict[str, Tensor]:
    """Masks (1, T, T) of other rules."""
    causal, row = mask_of([9]), torch.arange(9)
    prefix = causal | ((row[:, None] < 3) & (row < 3))
    return {
        "sees itself both ways": torch.ones(1, 9, 9, dtype=torch.bool),
        "a prefix that does": prefix,
        "padding before": causal & (row >= 2),
        "padding behind": causal & (row < 6),
        "nothing at all": torch.zeros_like(causal),
        "all but itself": causal & (row[:, None] != row),
        "every other key": causal & ((row[:, None] - row) % 2 == 0),
        "sinks before a window": mask_of([9], window=3) | (causal & (row < 1)),
        "a window by turns": torch.where((row % 2 == 0)[:, None], causal, mask_of([9], window=3)),
        "a document that sees another": mask_of([4, 5]) | ((row[:, None] >= 4) & (row < 2)),
        "later tokens": causal.mT,
    }


@pytest.mark.parametrize("name", others())
def test_other_rules_are_told_apart(name: str) -> None:
    assert read_mask(others()[name]) is None
    together = torch.cat([mask_of([4, 5]), others()[name]])
    assert read_mask(together) is None  # one such row is enough


def test_rows_of_unlike_windows_are_no_pattern() -> None:
    assert read_mask(torch.cat([mask_of([9], window=3), mask_of([9], window=4)])) is None
    chunks = read_mask(torch.cat([mask_of([3, 3, 3]), mask_of([9], window=9)]))
    assert chunks is not None and chunks.window is None


def test_a_mask_is_read_once_and_again_when_it_was_written_to(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = counted(monkeypatch, "read_mask")
    masks, mask = Masks(), mask_of([4, 5])[:, None]
    first = masks.read(mask)
    assert first is not None and masks.read(mask) is first and len(calls) == 1
    mask[0, 0, 8, 0] = True
    assert masks.read(mask) is None and masks.read(mask) is None and len(calls) == 2
    assert masks.read(mask_of([4, 5])[:, None]) is not None and len(calls) == 3
    del mask, calls[:]
    gc.collect()
    assert len(masks._known) == 0


# ---- one attention ---------------------------------------------------------------------------------


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


# ---- whole models ----------------------------------------------------------------------------------

ROW = 30
TOKENS = torch.randint(4, 1000, (2, ROW), generator=torch.Generator().manual_seed(3))


def places(*rows: list[tuple[int, int]]) -> Tensor:
    """(B, ROW) of rows of documents, each by its first position and its length."""
    return torch.stack([torch.cat([torch.arange(start, start + n) for start, n in row]) for row in rows])


PLAIN = torch.arange(ROW).repeat(2, 1)
PADDED = torch.ones(2, ROW, dtype=torch.long)
PADDED[1, 22:] = 0
ROWS: dict[str, tuple[Tensor, Tensor | None]] = {
    "packed": (places([(0, 17), (0, 13)], [(0, 1), (0, 20), (0, 1), (0, 8)]), None),
    "not from 0": (places([(3, 17), (7, 13)], [(5, 1), (5, 1), (2, 28)]), None),
    "one row packed": (places([(0, ROW)], [(0, 12), (0, 18)]), None),
    "of one token each": (places([(0, 1)] * ROW, [(0, 1)] * ROW), None),
    "plain": (PLAIN, None),
    "padded behind": (PLAIN, PADDED),
    "padded before": ((PADDED.flip(1).cumsum(1) - 1).clamp(min=0), PADDED.flip(1)),
}
# How many of the two layers attend by documents: in packed rows, in plain ones. Padded rows never do.
LAYERS = {
    "qwen3_moe": (2, 0),
    "stablelm": (2, 0),
    "llama4_text": (2, 0),  # chunks by turns, longer than these rows
    "cohere2": (2, 1),  # windows by turns
    "gemma3_text": (2, 1),
    "mistral": (2, 2),  # windows
    "falcon_h1": (2, 0),  # beside a state-space model
    "gpt2": (2, 0),
    "opt": (0, 0),  # never learns where a document begins
    "bloom": (0, 0),  # ALiBi
    "mpt": (0, 0),
    "falcon": (0, 0),
    "gpt_oss": (0, 0),  # sinks
    "gemma2": (0, 0),  # caps
    "deepseek_v3": (0, 0),  # values smaller than keys
}


def passed(model: Any, positions: Tensor, mask: Tensor | None) -> list[Tensor]:
    """Logits of tokens that are no padding, and all gradients of a sum over them."""
    model.zero_grad()
    given = {"position_ids": positions, "attention_mask": mask}
    known = inspect.signature(model.forward).parameters
    kept = torch.ones_like(TOKENS) if mask is None else mask
    logits = model(input_ids=TOKENS, use_cache=False, **{n: t for n, t in given.items() if n in known}).logits
    (logits.sin() * kept[..., None]).sum().backward()
    return [
        (logits * kept[..., None]).detach(),
        torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]),
    ]


def apart(found: list[Tensor], wanted: list[Tensor]) -> float:
    """The largest difference as a share of the norm; of one token alone q and k have no gradient but noise."""
    return max(float((one - other).norm() / other.norm()) for one, other in zip(found, wanted, strict=True))


def trained(kind: str, **changes: Any) -> Any:
    """A small model all of whose matrices train, which keeps every architecture's own layers."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(small_config(kind, **changes)).train()
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.dim() == 2)
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.2)
    return model


@pytest.mark.parametrize("kind", LAYERS)
def test_gradients_of_every_kind_of_row_stay_the_same(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = counted(monkeypatch, "attend")
    model = trained(kind)
    wanted = {name: passed(model, *given) for name, given in ROWS.items()}
    apply_fast_path(model, activation_budget=1.0)
    for name, given in ROWS.items():
        calls.clear()
        assert apart(passed(model, *given), wanted[name]) < 1e-5, name
        expected = LAYERS[kind][name == "plain"] if "padded" not in name else 0
        assert len(calls) == expected, name


@pytest.mark.parametrize("chunk", [5, 12])
def test_chunks_are_read_as_documents(chunk: int) -> None:
    model = trained("llama4_text", attention_chunk_size=chunk)
    wanted = {name: passed(model, *given) for name, given in ROWS.items()}
    apply_fast_path(model, activation_budget=1.0)
    for name, given in ROWS.items():
        assert apart(passed(model, *given), wanted[name]) < 1e-5, name


def test_a_mask_that_is_written_to_unnoticed_is_read_anew_by_the_next_pass() -> None:
    model, other = trained("stablelm"), trained("stablelm")
    apply_fast_path(model, activation_budget=1.0)
    mask = mask_of([17, 13], [ROW])[:, None]
    for rows in (([17, 13], [ROW]), ([ROW], [2, 28])):
        mask.data.copy_(mask_of(*rows)[:, None])
        found, wanted = (
            m(input_ids=TOKENS, attention_mask=mask, use_cache=False).logits for m in (model, other)
        )
        torch.testing.assert_close(found, wanted)
    again = pickle.loads(pickle.dumps(model))
    torch.testing.assert_close(again(input_ids=TOKENS, attention_mask=mask, use_cache=False).logits, wanted)


def test_recomputed_layers_attend_alike_and_read_no_mask_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model = trained("cohere2")
    wanted = passed(model, *ROWS["packed"])
    calls = counted(monkeypatch, "read_mask")
    apply_fast_path(model, activation_budget=0.0)
    assert apart(passed(model, *ROWS["packed"]), wanted) < 1e-5
    assert len(calls) == 2  # with windows and without


def test_other_models_of_a_class_keep_its_pass() -> None:
    model, other = trained("qwen3_moe"), trained("qwen3_moe")
    apply_fast_path(model, activation_budget=1.0)
    modules = [m for m in model.modules() if type(m).__name__ == "Qwen3MoeAttention"]
    assert len(modules) == 2
    for module in modules:
        assert module.forward.__func__.__globals__["ALL_ATTENTION_FUNCTIONS"] is not ALL_ATTENTION_FUNCTIONS
        assert not fuse_attention(module, Masks())  # once is enough
    assert all("forward" not in vars(m) for m in other.modules() if type(m).__name__ == "Qwen3MoeAttention")
