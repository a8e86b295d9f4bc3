"""Tokens a Han character and a syllable: the same by a tokenizer's files and by transformers."""

from pathlib import Path

import pandas as pd
import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from taigi_lightning.model.new_tokens import extended_tokenizer
from taigi_lightning.planning.pieces import count_pieces, sample_texts, spans_by_files, with_words

TEXTS = ["我beh去tshit-thô，lí kap阮兜。", "阮兜 tshit-thô tshit-thôa 1 2.", "Tai5-lam5 𨑨迌"]
WORDS = ["阮兜", "tshit-thô"]


def by_transformers(tokenizer: PreTrainedTokenizerBase) -> str:
    encoded = tokenizer(TEXTS, add_special_tokens=False, return_offsets_mapping=True)
    return str(count_pieces(TEXTS, encoded["offset_mapping"]))


@pytest.mark.parametrize("kind", ["tokenizer.model", "tokenizer.json"])
def test_files_and_transformers_count_alike(tiny_tokenizer_dir: Path, tmp_path: Path, kind: str) -> None:
    folder = tiny_tokenizer_dir
    if kind == "tokenizer.json":
        AutoTokenizer.from_pretrained(tiny_tokenizer_dir).save_pretrained(folder := tmp_path)
    spans = spans_by_files(folder, TEXTS)
    assert spans is not None
    assert str(count_pieces(TEXTS, spans)) == by_transformers(
        AutoTokenizer.from_pretrained(tiny_tokenizer_dir)
    )
    assert spans_by_files(tmp_path / "nowhere", TEXTS) is None


def test_new_tokens_are_counted_as_the_longer_tokenizer_does(tiny_llama_dir: Path) -> None:
    spans = spans_by_files(tiny_llama_dir, TEXTS)
    assert spans is not None
    longer = [with_words(text, found, WORDS) for text, found in zip(TEXTS, spans, strict=True)]
    found = str(count_pieces(TEXTS, longer))
    assert found == by_transformers(extended_tokenizer(str(tiny_llama_dir), WORDS)[0])
    assert found != str(count_pieces(TEXTS, spans))


def test_a_corpus_is_sampled_from_its_beginning(tmp_path: Path) -> None:
    assert sample_texts(tmp_path) == []
    texts = ["字" * 30_000] * 70
    pd.DataFrame({"text": texts}).to_parquet(tmp_path / "train-00000-of-00001.parquet")
    assert 1 <= len(sample_texts(tmp_path)) <= 64
