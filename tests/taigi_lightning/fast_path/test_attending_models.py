"""Whole models whose layers attend by documents give the logits and gradients that they gave."""

from __future__ import annotations

import inspect
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from taigi_lightning.fast_path.apply import apply_fast_path
from taigi_lightning.fast_path.own_attention import Masks, fuse_attention
from tests.taigi_lightning.architectures.small_configs import small_config
from tests.taigi_lightning.fast_path.document_masks import counted, mask_of

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
