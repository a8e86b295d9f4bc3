"""Perplexity per character."""

import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

from taigi_lightning.errors import InputError
from taigi_lightning.evaluation.perplexity import held_out_texts, perplexity_per_character, windows

TEXTS = ["早起時仔，阿母佇灶跤煮糜。", "Lí hó, lán lâi-khì!", "阮兜蹛佇台南，厝邊頭尾攏真好鬥陣。" * 3]


def test_it_is_the_plain_likelihood_of_all_tokens_over_all_characters(
    tiny_llama_dir: Path, tiny_tokenizer: PreTrainedTokenizerBase
) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_llama_dir, dtype=torch.float32).eval()
    total = 0.0
    for text in TEXTS:
        ids = torch.tensor([tiny_tokenizer(text)["input_ids"]])
        with torch.no_grad():
            logs = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
        total -= float(logs.gather(1, ids[0, 1:, None]).sum())
    wanted = math.exp(total / sum(map(len, TEXTS)))
    for batch_tokens in (1, 10_000):
        found = perplexity_per_character(model, tiny_tokenizer, TEXTS, batch_tokens=batch_tokens)
        assert found == pytest.approx(wanted, rel=1e-5)


def test_a_long_text_is_read_in_windows_and_every_token_counts_once(
    tiny_tokenizer: PreTrainedTokenizerBase,
) -> None:
    ids = tiny_tokenizer(TEXTS[2])["input_ids"]
    batches = list(windows(tiny_tokenizer, [TEXTS[2]], max_length=8, batch_tokens=24))
    assert max(input_ids.shape[1] for input_ids, _ in batches) == 8
    assert all(bool((input_ids[:, 0] == tiny_tokenizer.bos_token_id).all()) for input_ids, _ in batches)
    supervised = [row[row != -100].tolist() for _, labels in batches for row in labels]
    assert [token for window in supervised for token in window] == ids[1:]


def test_an_empty_validation_split_is_refused(tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"text": pa.array([], pa.string())}), tmp_path / "validation-00000-of-00001.parquet"
    )
    with pytest.raises(InputError, match="is empty"):
        held_out_texts(tmp_path)
