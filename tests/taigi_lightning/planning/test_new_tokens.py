"""What `plan` counts of rows of tokens that train: what the model holds of them, and what then stays on the card."""

from dataclasses import replace
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

from taigi_lightning.errors import InputError
from taigi_lightning.model.token_rows import attach_rows
from taigi_lightning.planning.disk_needs import disk_needs
from taigi_lightning.planning.memory import GIB, Shape
from taigi_lightning.planning.needs import Needs
from taigi_lightning.planning.plan import Disk, Found, make_plan
from taigi_lightning.planning.settings import Settings, read_settings
from taigi_lightning.planning.training_needs import NEW_TOKENS, needs
from tests.taigi_lightning.architectures.small_configs import small_config

WORDS = 5
LLAMA = Settings(rank=64, batch_size=1, activation_budget=0.0, weights_on_host="all")


def shape_of(config: Any) -> Shape:
    return Shape.from_config(config.to_dict())


def parts(need: Needs) -> dict[str, int]:
    return {part.purpose: part.bytes for part in (*need.device, *need.host)}


@pytest.mark.parametrize("tied", [True, False])
def test_what_a_model_holds_of_the_rows_is_what_is_counted(tied: bool) -> None:
    config = small_config("llama", tie_word_embeddings=tied)
    model = AutoModelForCausalLM.from_config(config)
    size, shape = config.vocab_size, shape_of(config)
    attach_rows(model, {size + number: [number] for number in range(WORDS)})
    tables = [model.get_input_embeddings(), *([] if tied else [model.get_output_embeddings()])]
    rows_of = [table.token_rows for table in tables]
    held = [tensor for rows in rows_of for tensor in (rows.rows, rows.places, rows.ids)]
    wanted = sum(tensor.numel() * tensor.element_size() for tensor in held)
    settings = Settings(rank=2, optimizer="torch.optim.SGD", quantization="none", activation_budget=1.0)
    found, without = (parts(needs(replace(settings, new_tokens=n), shape)) for n in (WORDS, 0))
    assert found[NEW_TOKENS] == wanted
    assert NEW_TOKENS not in without
    rows = WORDS * shape.hidden * (1 if tied else 2)
    assert found["gradients"] - without["gradients"] == 4 * rows
    assert found["weights, the rest"] - without["weights, the rest"] == 2 * rows  # the longer tables
    adam = parts(needs(replace(settings, new_tokens=WORDS, optimizer="torch.optim.AdamW"), shape))
    assert adam["optimizer state"] == 8 * (found["adapter"] // 4 + rows)


def test_embedding_and_head_stay_on_the_card() -> None:
    shape = shape_of(small_config("llama", tie_word_embeddings=False, vocab_size=500_000))
    card = GIB
    free, held = (needs(replace(LLAMA, new_tokens=n), shape, card) for n in (0, WORDS))
    assert free.decisions.embedding_on_host and not held.decisions.embedding_on_host
    assert not held.decisions.head_on_host and "input embedding" not in parts(held)
    settings = replace(LLAMA, base="models/tiny-taigi", new_tokens=WORDS)
    said = make_plan(settings, shape, Found(disks={settings.folder: Disk(1, GIB)}))
    assert any("Rows of 5 tokens train beside LoRA" in note for note in said.notes)


def test_a_run_leaves_the_longer_tables() -> None:
    shape = shape_of(small_config("llama", tie_word_embeddings=False))
    more, less = (
        next(iter(disk_needs(replace(LLAMA, base="models/tiny-taigi", new_tokens=n), shape).values()))
        for n in (WORDS, 0)
    )
    rows = 2 * WORDS * shape.hidden
    assert more["adapter"] - less["adapter"] == 4 * rows
    assert more["merged model"] - less["merged model"] == 2 * rows


def test_settings_count_words_and_what_an_adapter_brings(tmp_path: Any) -> None:
    words = tmp_path / "words.txt"
    words.write_text("阮兜\n\n迌\n阮兜\n", encoding="utf-8")
    for tokens in (str(words), ["阮兜", "迌"]):
        model = {"lora": {"r": 4}, "new_tokens": {"tokens": tokens, "lr": None}}
        assert read_settings({"model": model, "data": "CPTDataModule"}).new_tokens == 2
    adapter = tmp_path / "adapter_config.json"
    adapter.write_text(
        '{"r": 4, "trainable_token_indices": {"embed_tokens": [1, 2, 3], "lm_head": [1, 2, 3]}}'
    )
    assert read_settings({"model": {"adapter": str(tmp_path)}, "data": "CPTDataModule"}).new_tokens == 3
    with pytest.raises(InputError, match=r"There is no file nowhere.txt"):
        read_settings({"model": {"lora": {"r": 4}, "new_tokens": {"tokens": "nowhere.txt"}}})
