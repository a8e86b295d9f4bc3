"""A stage with new tokens: its own rate, a resumed run, what is left for later stages, and what is refused."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from safetensors.torch import load_file

from taigi_lightning.data.cpt import CPTDataModule
from taigi_lightning.errors import InputError
from taigi_lightning.model.adapters import LoraSettings
from taigi_lightning.model.base_model import load_tokenizer
from taigi_lightning.model.new_tokens import NewTokens
from taigi_lightning.training.callbacks import ExportModel
from taigi_lightning.training.module import CausalLMModule
from tests.taigi_lightning.small_runs import trainer
from tests.taigi_lightning.training.test_module import module

WORDS = ["阮兜", "chia̍h-pn̄g", "阿"]
ROWS = "model.base_model.model.model.embed_tokens.token_rows.rows"
DELTA = "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    texts = [f"阮兜{n}蹛佇台南，lâi chia̍h-pn̄g！阿明。" for n in range(8)]
    pd.DataFrame({"text": texts}).to_parquet(folder / "train-00000-of-00001.parquet")
    (folder / "manifest.json").write_text("{}")
    return folder


def stage(base: Path, **options: Any) -> CausalLMModule:
    defaults: dict[str, Any] = {"lora": LoraSettings(r=2, lora_dropout=0.1), "activation_budget": 0.0}
    return module(base, **(defaults | {"new_tokens": NewTokens(WORDS, lr=5e-2)} | options))


def data(corpus: Path, base: Path) -> CPTDataModule:
    cache = str(corpus / "cache")
    return CPTDataModule(
        str(corpus), str(base), 1, 32, packing=True, validation_split=None, cache_dir=cache
    )  # fmt: skip


def test_new_tokens_train_resume_and_go_on_to_the_next_stage(
    tiny_llama_dir: Path, corpus: Path, tmp_path: Path
) -> None:
    saved = ModelCheckpoint(tmp_path / "saved", every_n_train_steps=2, save_top_k=-1, filename="{step}")
    made = trainer(tmp_path, max_steps=4, callbacks=[ExportModel(), saved], enable_checkpointing=True)
    whole = stage(tiny_llama_dir)
    made.fit(whole, data(corpus, tiny_llama_dir))
    rates = [group["initial_lr"] for group in made.optimizers[0].param_groups]
    assert rates == [1e-2, 5e-2]
    assert [group["weight_decay"] for group in made.optimizers[0].param_groups][-1] == 0.0

    rest = trainer(tmp_path / "rest", max_steps=4)
    again = stage(tiny_llama_dir)
    rest.fit(again, data(corpus, tiny_llama_dir), ckpt_path=tmp_path / "saved/step=2.ckpt", weights_only=True)
    assert ROWS in whole.state_dict()
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name

    adapter = tmp_path / "adapter"
    assert torch.equal(load_file(adapter / "adapter_model.safetensors")[DELTA], whole.state_dict()[ROWS])
    ids = load_tokenizer(str(tmp_path))("阮兜chia̍h-pn̄g")["input_ids"]
    assert ids == whole.tokenizer("阮兜chia̍h-pn̄g")["input_ids"]
    assert {int(number) for number in whole.vocabulary.rows(whole.base) if number >= 512} <= {*ids, 512, 513}
    inputs = torch.tensor([ids])
    for later in (
        CausalLMModule(str(tmp_path), lora=LoraSettings(r=2)),
        CausalLMModule(str(tiny_llama_dir), adapter=str(adapter)),
    ):
        later.configure_model(device="cpu")
        with torch.no_grad():
            torch.testing.assert_close(later.eval()(inputs).logits, whole.eval()(inputs).logits)
        assert later.tokenizer("阮兜")["input_ids"] == whole.tokenizer("阮兜")["input_ids"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"lora": None}, "beside LoRA"),
        ({"lora": None, "from_scratch": True, "quantization": "none"}, "beside LoRA"),
        ({"new_tokens": NewTokens([])}, "holds no word"),
        ({"new_tokens": {"tokens": "missing.txt"}}, "no file missing.txt"),
    ],
)
def test_what_cannot_train_new_tokens_is_refused_at_once(
    tiny_llama_dir: Path, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        stage(tiny_llama_dir, **options)
