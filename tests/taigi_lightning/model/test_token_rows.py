"""Rows of new tokens have the gradients that PEFT gives them, and are the same function wherever they go."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from taigi_lightning.errors import InputError
from taigi_lightning.evaluation.model_setup import build_model
from taigi_lightning.fast_path.apply import apply_fast_path, fast_decoder, forward_hidden
from taigi_lightning.fast_path.cross_entropy import linear_cross_entropy_sum
from taigi_lightning.fast_path.families import FAMILIES
from taigi_lightning.fast_path.output_head import output_head
from taigi_lightning.model.adapters import LoraSettings, save_adapter
from taigi_lightning.model.base_model import load_tokenizer
from taigi_lightning.model.lineage import base_identity, write_lineage
from taigi_lightning.model.merge import merge_adapter
from taigi_lightning.model.new_tokens import NewTokens, extended_tokenizer, written_tokenizer
from taigi_lightning.model.token_rows import check_tables
from taigi_lightning.planning.new_words import read_words
from tests.taigi_lightning.architectures.small_bases import gemma3_wrapper, save_base
from tests.taigi_lightning.architectures.small_configs import VOCABULARY, small_config

WORDS = ["阮兜", "tshit-thô", "去"]  # two that no base has, and one that each has
BASES: dict[str, Any] = {
    "untied": lambda: small_config("llama", tie_word_embeddings=False),
    "tied": lambda: small_config("llama", tie_word_embeddings=True),
    "scaled, capped": lambda: small_config("gemma2", tie_word_embeddings=True),
    "wrapped": gemma3_wrapper,
    "general path": lambda: small_config("stablelm", tie_word_embeddings=False),
}


@pytest.fixture(scope="module", params=BASES)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(BASES[request.param](), tmp_path_factory.mktemp("base"))


def build(folder: Path, **options: Any) -> Any:
    torch.manual_seed(3)
    defaults: dict[str, Any] = {
        "lora": LoraSettings(r=2),
        "adapter": None,
        "quantization": "none",
        "training": True,
    }
    place: dict[str, Any] = {
        "compute_dtype": torch.float32,
        "device": torch.device("cpu"),
        "from_scratch": False,
    }
    return build_model(str(folder), **(defaults | place | options))


def text(folder: Path) -> Tensor:
    """Two packed texts [1, T] with the new tokens in them, more than once."""
    tokenizer, rows = extended_tokenizer(str(folder), WORDS)
    ids = tokenizer("阮兜來去 tshit-thô，阮兜去 tshit-thô。", add_special_tokens=False)["input_ids"]
    assert set(rows) <= set(ids)
    return torch.tensor([[*ids, 2, 1, *ids]])


def trained(folder: Path) -> Any:
    """A model whose adapter and rows are away from where they begin."""
    model = build(folder, new_tokens=extended_tokenizer(str(folder), WORDS)[1])
    torch.manual_seed(4)
    for name, parameter in model.named_parameters():
        if "lora_B" in name or "token_rows" in name:
            parameter.data.add_(torch.randn_like(parameter) * 0.05)
    return model


def loss(model: Any, ids: Tensor) -> Tensor:
    half = int((ids == 2).nonzero()[0, 1]) + 1
    positions = torch.cat([torch.arange(half), torch.arange(ids.shape[1] - half)])[None]
    labels = ids.masked_fill(positions == 0, -100)
    return linear_cross_entropy_sum(forward_hidden(model, ids, positions), output_head(model), labels)


def in_peft(folder: Path, adapter: Path) -> Any:
    """What plain PEFT makes of a saved adapter: the base with as many rows as its tokenizer knows, and the adapter."""
    whole: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    size = max(len(AutoTokenizer.from_pretrained(adapter)), len(whole.get_input_embeddings().weight))
    whole.resize_token_embeddings(size, mean_resizing=False)
    return PeftModel.from_pretrained(whole, adapter, is_trainable=True).double()


def save(model: Any, folder: Path, base: Path) -> Path:
    save_adapter(model, folder, str(base), written_tokenizer(str(base), None, WORDS))
    write_lineage(folder, base=base_identity(base))
    return folder


def test_gradients_and_logits_are_those_of_plain_peft(base: Path, tmp_path: Path) -> None:
    model, ids = trained(base), text(base)
    adapter = save(model, tmp_path / "adapter", base)
    apply_fast_path(model, activation_budget=0.5)
    assert (fast_decoder(model) is not None) == (type(model.get_base_model()).__name__ in FAMILIES)
    found_loss: Any = loss(model, ids)
    found_loss.backward()
    found = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    plain = in_peft(base, adapter)
    half = int((ids == 2).nonzero()[0, 1]) + 1
    total: Any = sum(
        nn.functional.cross_entropy(plain(input_ids=part).logits[0, :-1], part[0, 1:], reduction="sum")
        for part in (ids[:, :half], ids[:, half:])
    )
    torch.testing.assert_close(total.float(), loss(model, ids), rtol=1e-5, atol=1e-4)
    total.backward()
    wanted = {n: p.grad for n, p in plain.named_parameters() if p.requires_grad and p.grad is not None}
    rows = {n: g for n, g in found.items() if "token_rows" in n}
    theirs = {n: g for n, g in wanted.items() if "trainable_tokens" in n}
    assert len(rows) == len(theirs) == (2 if not plain.config.get_text_config().tie_word_embeddings else 1)
    for (_, mine), (_, other) in zip(sorted(rows.items()), sorted(theirs.items()), strict=True):
        assert float((mine - other).norm()) <= 1e-5 * float(other.norm())
        assert bool((other.abs().sum(1) > 0).all())
    lora = {n: g for n, g in found.items() if "lora_" in n}
    assert len(lora) == len([n for n in wanted if "lora_" in n])
    norms = [
        torch.stack([g.double().norm() for n, g in sorted(some.items()) if "lora_" in n])
        for some in (found, wanted)
    ]
    torch.testing.assert_close(*norms, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_merged_loaded_and_stacked_models_compute_what_was_trained(base: Path, tmp_path: Path) -> None:
    model, ids = trained(base).eval(), text(base)
    wanted = model(ids).logits
    adapter = save(model, tmp_path / "merged" / "adapter", base)
    report = merge_adapter(base, adapter, tmp_path / "merged")
    assert report.tokens == len(WORDS) and "rows of 3 tokens" in str(report)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    again = build(base, adapter=str(adapter), training=False)
    stacked = build(base, updates=[adapter]).eval()
    for other in (merged, again, stacked):
        torch.testing.assert_close(other(ids).logits, wanted, rtol=1e-4, atol=1e-4)
    tokenizer = load_tokenizer(str(tmp_path / "merged"))
    for other in (load_tokenizer(str(base), str(adapter)), extended_tokenizer(str(base), WORDS)[0]):
        assert tokenizer("阮兜去tshit-thô")["input_ids"] == other("阮兜去tshit-thô")["input_ids"]
    again, first = (extended_tokenizer(str(folder), WORDS)[1] for folder in (tmp_path / "merged", base))
    assert again.keys() == first.keys()
    added = json.loads((tmp_path / "merged" / "added_tokens.json").read_text(encoding="utf-8"))
    assert added == {
        word: tokenizer.convert_tokens_to_ids(word) for word in WORDS[:2]
    }  # as llama.cpp wants it


def test_words_are_found_whole_and_begin_as_their_pieces(tmp_path: Path) -> None:
    folder = save_base(small_config("llama"), tmp_path)
    plain = load_tokenizer(str(folder))
    tokenizer, rows = extended_tokenizer(str(folder), ["tsa", "學校邊", "阮"])
    new = {word: int(tokenizer.convert_tokens_to_ids(word)) for word in ("tsa", "學校邊", "阮")}
    assert rows[new["阮"]] == (new["阮"],)
    assert list(rows[new["學校邊"]]) == plain("，學校邊", add_special_tokens=False)["input_ids"][2:]
    found = tokenizer("tsa tsai 佇學校邊食", add_special_tokens=False)["input_ids"]
    assert found.count(new["tsa"]) == found.count(new["學校邊"]) == 1
    assert tokenizer.decode(found) == "tsa tsai 佇學校邊食"


@pytest.mark.parametrize(
    ("tokens", "sentence"),
    [
        ([], "holds no word"),
        (["a\nb"], "a line's end"),
        ([" "], "blanks around"),
        ("none.txt", "There is no file"),
    ],
)
def test_unusable_words_are_refused(tokens: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        read_words(tokens)


def test_words_come_from_a_file_and_are_composed(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("\ufefftho\u0302\n\n阮兜\nthô\n", encoding="utf-8")
    assert read_words(NewTokens(str(tmp_path / "words.txt")).tokens) == ["thô", "阮兜"]


def test_a_head_with_a_bias_takes_no_more_tokens(tmp_path: Path) -> None:
    folder = str(save_base(small_config("phi"), tmp_path))
    with pytest.raises(InputError, match="has a bias"):
        check_tables(folder, VOCABULARY + 1)
    check_tables(folder, VOCABULARY)
