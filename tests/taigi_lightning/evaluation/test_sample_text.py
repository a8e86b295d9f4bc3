"""The token NLL shown of a text is the model's own, and no piece of the text is lost or torn."""

import json
from pathlib import Path

import lightning.pytorch as pl
import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

from taigi_lightning.data.cpt import CPTDataModule
from taigi_lightning.evaluation.sample_text import TOKENS, HeldOutText, pieces, token_nll
from taigi_lightning.model.adapters import LoraSettings
from taigi_lightning.reports.training_report import TEXT
from taigi_lightning.training.module import CausalLMModule

HELD_OUT = "阿明下晡欲去市仔買菜，伊毋知影按怎行。Lí hó! 咱來去海邊仔𨑨迌。" * 40


def test_the_first_held_out_text_is_read_when_training_ends(tiny_llama_dir: Path, tmp_path: Path) -> None:
    rows = pd.DataFrame({"text": [f"阮兜蹛佇台南{n}，攏真好鬥陣。" for n in range(8)]})
    rows.to_parquet(tmp_path / "train-00000-of-00001.parquet")
    pd.DataFrame({"text": [HELD_OUT, "另外一篇"]}).to_parquet(tmp_path / "validation-00000-of-00001.parquet")
    module = CausalLMModule(str(tiny_llama_dir), lora=LoraSettings(r=2, lora_alpha=4), activation_budget=1.0)
    data = CPTDataModule(str(tmp_path), str(tiny_llama_dir), max_length=512)
    trainer = pl.Trainer(
        default_root_dir=tmp_path, accelerator="cpu", max_steps=1, logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, callbacks=[HeldOutText()],
    )  # fmt: skip
    trainer.fit(module, data)

    found = json.loads((tmp_path / TEXT).read_text(encoding="utf-8"))
    text = "".join(piece for piece, _ in found["pieces"])
    assert HELD_OUT.startswith(text.removesuffix("\ufffd"))
    assert len(text) > 100
    total = sum(nats for _, nats in found["pieces"])
    assert found["mean"] == pytest.approx(total / (TOKENS - 1), rel=1e-3)


def test_token_nll_is_the_loss_of_each_token(
    tiny_llama_dir: Path, tiny_tokenizer: PreTrainedTokenizerBase
) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_llama_dir, dtype=torch.float32).eval()
    tokens = torch.tensor(tiny_tokenizer(HELD_OUT)["input_ids"][:90])
    with torch.no_grad():
        expected = float(model(input_ids=tokens[None], labels=tokens[None]).loss)
        nats = token_nll(model, tokens)
    assert nats[0] == 0.0
    assert sum(nats) / 89 == pytest.approx(expected, rel=1e-4)


def test_a_character_of_several_tokens_is_one_piece(tiny_tokenizer: PreTrainedTokenizerBase) -> None:
    tokens = tiny_tokenizer("去𫝻 行")["input_ids"]  # 𫝻 is four bytes to this tokenizer
    found = pieces(tiny_tokenizer, tokens, [1.0] * len(tokens))
    assert "".join(piece for piece, _ in found) == "去𫝻 行"
    assert ("𫝻", 4.0) in found
    assert sum(nats for _, nats in found) == len(tokens)
