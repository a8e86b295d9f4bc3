"""What a run shows: steps, loss, tokens/s and the time left, on terminals wide and narrow, and in a log."""

import json
import re
import shutil
from pathlib import Path

import lightning.pytorch as pl
import pandas as pd
import pytest
import torch
from transformers import AutoConfig, StableLmConfig, StableLmForCausalLM

from taigi_lightning.data.cpt import CPTDataModule
from taigi_lightning.model.adapters import LoraSettings
from taigi_lightning.model.base_model import load_base_model
from taigi_lightning.planning.memory import nf4_bytes
from taigi_lightning.planning.run_files import HOW_TRAINED
from taigi_lightning.training.module import CausalLMModule
from taigi_lightning.training.progress_bar import StepProgress
from taigi_lightning.training.run_summary import Announcement, stored_bytes
from taigi_lightning.training.throughput import Throughput

TEXT = "阿明下晡欲去市仔買菜，伊毋知影按怎行。今仔日的天氣真好，咱來去海邊仔𨑨迌。"


def train(base: Path, folder: Path, steps: int = 8, budget: float = 1.0) -> None:
    rows = pd.DataFrame({"text": [f"{TEXT}{n}" for n in range(30)]})
    rows[:20].to_parquet(folder / "train-00000-of-00001.parquet")
    rows[20:].to_parquet(folder / "validation-00000-of-00001.parquet")
    module = CausalLMModule(str(base), lora=LoraSettings(r=2), activation_budget=budget)
    data = CPTDataModule(str(folder), str(base), batch_size=2, max_length=64)
    trainer = pl.Trainer(
        default_root_dir=folder, accelerator="cpu", max_steps=steps, accumulate_grad_batches=2, logger=False,
        enable_model_summary=False, enable_checkpointing=False, check_val_every_n_epoch=None,
        val_check_interval=8, use_distributed_sampler=False, log_every_n_steps=1,
        callbacks=[StepProgress(), Announcement(), Throughput()],
    )  # fmt: skip
    trainer.fit(module, data)


@pytest.mark.parametrize("columns", [60, 100])
def test_a_terminal_shows_the_course_in_one_line(
    tiny_llama_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    columns: int,
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes any stream for a terminal
    monkeypatch.setenv("COLUMNS", str(columns))
    train(tiny_llama_dir, tmp_path)
    printed = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "\n", capsys.readouterr().out)
    assert "step 8/8" in printed
    assert "validation " in printed
    assert re.search(r"loss \d\.\d{3}\n* \n*[\d,]+ tokens/s", printed.replace("\n", ""))
    assert ("val " in printed.replace("validation", "")) is (columns == 100)
    assert "left" in printed
    assert "Epoch" not in printed
    assert "v_num" not in printed


def test_a_log_gets_a_line_now_and_then(
    tiny_llama_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tiny_llama_dir, tmp_path, steps=40)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step ")]
    assert len(lines) == 20
    assert re.fullmatch(r"step 38 of 40: loss [\d.]+, [\d,]+ tokens/s, val [\d.]+, 0:00:\d\d left", lines[-2])
    assert lines[-1].startswith("step 40 of 40: loss ")


def test_the_first_line_says_what_is_trained_on_what(
    tiny_llama_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tiny_llama_dir, tmp_path, steps=1)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"Training LoRA r 2 on {tiny_llama_dir} (weights nf4) with {tmp_path}"
    assert lines[1].startswith("model: 4,352 parameters trained, ")


def test_4_bit_weights_count_with_their_scales(tiny_llama_dir: Path) -> None:
    model = load_base_model(
        str(tiny_llama_dir), quantization="nf4", compute_dtype=torch.float32, device=torch.device("cpu")
    )
    weight = model.model.layers[0].mlp.up_proj.weight
    assert weight.dtype is torch.uint8
    assert stored_bytes(weight) == nf4_bytes(64 * 128)
    assert stored_bytes(model.lm_head.weight) == model.lm_head.weight.numel() * 4


def test_the_run_leaves_what_its_report_says_of_the_model(tiny_llama_dir: Path, tmp_path: Path) -> None:
    train(tiny_llama_dir, tmp_path, steps=1)
    said = " ".join(json.loads((tmp_path / HOW_TRAINED).read_text()))
    assert "LoRA on" in said and "all that the text model has" in said


def test_a_run_off_the_fast_path_says_how_many_layers_keep_their_activations(
    tiny_llama_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, run = tmp_path / "base", tmp_path / "run"
    run.mkdir()
    shutil.copytree(tiny_llama_dir, base, ignore=shutil.ignore_patterns("model*"))
    config = AutoConfig.from_pretrained(base)
    StableLmForCausalLM(
        StableLmConfig(
            vocab_size=config.vocab_size, hidden_size=64, intermediate_size=128, num_hidden_layers=3,
            num_attention_heads=4, num_key_value_heads=2,
        )
    ).save_pretrained(base)  # fmt: skip
    train(base, run, steps=2, budget=0.7)
    printed, decided = capsys.readouterr().out, "2 of 3 layers keep theirs, the others compute them again"
    assert "activations: the first micro-batch shows how many of 3 layers can keep theirs" in printed
    assert printed.count(decided) == 1
    assert decided in " ".join(json.loads((run / HOW_TRAINED).read_text()))
