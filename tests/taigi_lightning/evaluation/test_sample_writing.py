"""What the report shows of the model's writing is its own greedy continuation, before and after, of the right texts."""

import json
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

from taigi_lightning.data.cpt import CPTDataModule
from taigi_lightning.data.instruction import InstructionDataModule
from taigi_lightning.errors import InputError
from taigi_lightning.evaluation.sample_writing import WrittenSamples, write_greedily
from taigi_lightning.model.adapters import LoraSettings
from taigi_lightning.reports.training_report import WRITING
from taigi_lightning.training.module import CausalLMModule
from tests.working_folder import link

TEXT = "阿明下晡欲去市仔買菜，伊毋知影按怎行。"


@pytest.mark.parametrize("seconds", [60.0, 0.0])
def test_it_is_what_transformers_writes(
    tiny_llama_dir: Path, tiny_tokenizer: PreTrainedTokenizerBase, seconds: float
) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_llama_dir, dtype=torch.float32).eval()
    with torch.no_grad():  # random weights alone write the same token again and again
        for weight in model.parameters():
            if weight.dim() == 2:
                torch.nn.init.normal_(weight, std=0.3)
    prompts = [tiny_tokenizer(text)["input_ids"] for text in ("早起時仔", "阿", TEXT)]
    ends = [2, 17]
    with torch.no_grad():
        found = write_greedily(model, prompts, 12, ends, 10_000, torch.device("cpu"), seconds)
    for prompt, new in zip(prompts, found, strict=True):
        whole = model.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), do_sample=False,
            max_new_tokens=12 if seconds else 1, eos_token_id=ends, pad_token_id=3,
        )  # fmt: skip
        wanted = whole[0, len(prompt) :].tolist()
        assert new == (wanted[:-1] if wanted[-1] in ends else wanted)


def fit(root: Path, base: Path, data: Any, **options: Any) -> list[dict[str, Any]]:
    """One step, and what was written before and after it."""
    module = CausalLMModule(
        str(base),
        lora=LoraSettings(r=2, lora_alpha=4),
        activation_budget=1.0,
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=0.5),
        lr_scheduler="constant_with_warmup",
    )
    trainer = pl.Trainer(
        default_root_dir=root, accelerator="cpu", max_steps=2, logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, callbacks=[WrittenSamples(**options)],
    )  # fmt: skip
    trainer.fit(module, data)
    path = root / WRITING
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []


def corpus(folder: Path, held_out: list[str]) -> CPTDataModule:
    pd.DataFrame({"text": [TEXT * (n + 1) for n in range(6)]}).to_parquet(
        folder / "train-00000-of-00001.parquet"
    )
    pd.DataFrame({"text": held_out}).to_parquet(folder / "validation-00000-of-00001.parquet")
    return CPTDataModule(str(folder), str(folder / "base"), max_length=64)


@pytest.fixture
def root(tmp_path: Path, tiny_llama_dir: Path) -> Path:
    link(tmp_path / "base", tiny_llama_dir)
    return tmp_path


def test_held_out_texts_are_gone_on_with(root: Path) -> None:
    """One of them is longer than a row: its second piece is no beginning."""
    texts = [f"第{n}篇，{TEXT * repeats}" for n, repeats in enumerate((1, 9, 2, 1))]
    rows = fit(root, root / "base", corpus(root, texts), new_tokens=6)
    assert len(rows) == 3
    for row in rows:
        whole = next(text for text in texts if text.startswith(row["prompt"]))
        assert whole.startswith(row["prompt"] + row["goes_on"])
        assert row.keys() == {"prompt", "goes_on", "before", "after"}
    assert any(row["before"] != row["after"] for row in rows)


def test_held_out_questions_of_conversations_are_answered(root: Path) -> None:
    turns = [{"prompt": f"第{n}題：", "completion": f"答案{n}。"} for n in range(12)]
    pd.DataFrame(turns).to_json(root / "chat.jsonl", orient="records", lines=True)
    data = InstructionDataModule(
        str(root / "chat.jsonl"), str(root / "base"), validation_fraction=0.5, max_length=64
    )
    rows = fit(root, root / "base", data, new_tokens=4)
    assert len(rows) == 3
    for row in rows:
        number = row["prompt"].removeprefix("第").removesuffix("題：")
        assert f"答案{number}。".startswith(row["goes_on"].strip()) and number.isdigit()


def test_a_small_micro_batch_shows_fewer(root: Path) -> None:
    texts = [f"第{n}篇，{TEXT}" for n in range(6)]
    data = corpus(root, texts)
    data.batch_size, data.max_length = 1, 64
    assert len(fit(root, root / "base", data, new_tokens=16)) == 2


def test_prompts_of_the_config_are_gone_on_with(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = corpus(root, ["短"])
    assert fit(root, root / "base", data, new_tokens=4) == []
    assert "without samples of what the model writes" in capsys.readouterr().out
    assert fit(root, root / "base", data, prompts=[]) == []
    assert "Traceback" not in capsys.readouterr().err
    rows = fit(root, root / "base", data, new_tokens=4, prompts=["早起時仔", "阿母"])
    assert [(row["prompt"], row["goes_on"]) for row in rows] == [("早起時仔", None), ("阿母", None)]
    with pytest.raises(InputError, match="are more than a micro-batch of 256"):
        fit(root, root / "base", data, prompts=[TEXT * 40])
