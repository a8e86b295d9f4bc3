from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from taigi_lightning.data.collate import pad_left, pad_right
from taigi_lightning.data.packing import Row
from taigi_lightning.tasks.prompts import IGNORE

PAD = 3


def row(ids: list[int], labels: list[int]) -> Row:
    positions = np.arange(len(ids), dtype=np.int64)
    return {"input_ids": np.array(ids), "labels": np.array(labels), "position_ids": positions}


def test_padding_on_the_right_is_a_document_of_its_own() -> None:
    batch = pad_right([row([5, 6], [IGNORE, 6]), row([7, 8, 9, 2], [IGNORE, IGNORE, 9, 2])], PAD)
    assert batch["input_ids"].tolist() == [[5, 6, PAD, PAD], [7, 8, 9, 2]]
    assert batch["labels"].tolist() == [[IGNORE, 6, IGNORE, IGNORE], [IGNORE, IGNORE, 9, 2]]
    assert batch["position_ids"].tolist() == [[0, 1, 0, 1], [0, 1, 2, 3]]
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}


@pytest.mark.parametrize(("multiple_of", "width"), [(1, 5), (4, 8), (5, 5), (8, 8)])
def test_the_width_is_rounded_up(multiple_of: int, width: int) -> None:
    batch = pad_right([row([1] * 5, [IGNORE] * 5)], PAD, multiple_of)
    assert batch["input_ids"].shape == (1, width)


def test_padding_on_the_left_ends_every_prompt_in_the_last_column() -> None:
    batch = pad_left([[5, 6], [7, 8, 9, 10]], PAD)
    assert batch["input_ids"].tolist() == [[PAD, PAD, 5, 6], [7, 8, 9, 10]]
    assert batch["attention_mask"].tolist() == [[0, 0, 1, 1], [1, 1, 1, 1]]


def test_a_left_padded_prompt_predicts_what_it_predicts_alone(tiny_llama_dir: Any) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_llama_dir, dtype=torch.float32).eval()
    prompts = [[1, 40, 50], [1, 60, 70, 80, 90, 100, 110]]
    with torch.no_grad():
        settings = {
            "max_new_tokens": 1,
            "pad_token_id": PAD,
            "output_logits": True,
            "return_dict_in_generate": True,
        }
        (together,) = model.generate(**pad_left(prompts, PAD), do_sample=False, **settings).logits
        alone = [model(torch.tensor([prompt])).logits[0, -1] for prompt in prompts]
    torch.testing.assert_close(together, torch.stack(alone), rtol=1e-5, atol=1e-5)
