"""Each base that Taigi is taught to, through every command: CPT, merge, SFT on the merged model, answers, plan."""

from __future__ import annotations

import hashlib
import json
import logging
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from taigi_lightning.__main__ import main
from tests.taigi_lightning.architectures.small_bases import save_base, taught_families
from tests.working_folder import TEXT, lay_out

TAUGHT = taught_families()
QUICK = ("llama3", "mistral", "qwen3", "gemma3")  # in CI: a tied one, a window, norms of heads, a wrapper
QUESTIONS = [
    {
        "ID": number,
        "文章": TEXT * (1 + number // 2 % 2),
        "問題": f"伊欲去佗位{number}？",
        **{f"選項{option}": place for option, place in enumerate(("市仔", "學校", "厝", "海邊"), start=1)},
        "正確答案": 1 + number % 4,
    }
    for number in range(8)
]
STAGE = [
    "--config", "configs/tiny.yaml", "--trainer.max_steps", "2", "--trainer.val_check_interval", "1",
    "--trainer.default_root_dir", "OUT", "--model.lora.r", "4", "--data.init_args.batch_size", "2",
    "--model.optimizer.init_args.lr", "0.01", "--samples.new_tokens", "2",
]  # fmt: skip


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    """`python -m taigi_lightning arguments`, in this process."""
    monkeypatch.setattr(sys, "argv", ["taigi_lightning", *arguments])
    monkeypatch.setattr(logging, "raiseExceptions", False)
    try:
        assert main() == 0
    except SystemExit as stop:
        assert not stop.code


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: value for file in folder.glob("*.safetensors") for name, value in load_file(file).items()}


def plain(folder: Path) -> Any:
    """A model as plain transformers loads it."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in TAUGHT],
)
def test_every_command(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    base = save_base(TAUGHT[name], tmp_path / "base")
    lay_out(tmp_path, base, [f"{TEXT * (1 + n % 3)}{n}" for n in range(16)], held_out=4)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    pd.DataFrame(QUESTIONS).to_csv("questions.csv", index=False)

    def stage(config: str, out: str, *more: str) -> None:
        arguments = [out if argument == "OUT" else argument for argument in STAGE]
        run(monkeypatch, "fit", "--config", f"configs/{config}.yaml", *arguments, *more)

    stage("cpt", "models/cpt_model", "--model.base", "models/base", "--data.init_args.max_length", "128")
    said = capsys.readouterr().out
    assert "LoRA on" in said and "all that the text model has" in said
    check_merged(base, Path("models/cpt_model"))
    sft = ("--model.base", "models/cpt_model", "--data.init_args.train_file", "questions.csv")
    stage("sft", "models/final_model", *sft, "--data.init_args.validation_fraction", "0.4")
    check_merged(Path("models/cpt_model"), Path("models/final_model"))
    asked = ["--data.init_args.questions", "questions.csv", "--model.adapter", "models/final_model/adapter"]
    cpu = ["--trainer.accelerator", "cpu", "--trainer.default_root_dir", "models/final_model"]
    out = "--trainer.callbacks.init_args.output"
    for folder, more in (("shared", []), ("alone", ["--data.init_args.share_passages", "false"])):
        run(monkeypatch, "predict", *cpu, *asked, *more, out, f"data/{folder}.csv")
    shares = [
        pd.read_csv(f"data/{folder}.probabilities.csv").filter(like="Probability")
        for folder in ("shared", "alone")
    ]
    assert len(shares[0]) == len(QUESTIONS)
    assert float((shares[0] - shares[1]).abs().max().max()) <= 1e-5
    run(monkeypatch, "test", "--config", "configs/predict.yaml", *cpu, *asked, "--trainer.callbacks", "null")
    compared = "{base: models/base, sft: models/cpt_model+models/final_model/adapter}"
    run(monkeypatch, "compare", "questions.csv", compared, "--output", "data/compared", "--shots", "[0]")
    assert len(pd.read_csv("data/compared/comparison.csv")) == 2
    run(monkeypatch, "plan", "--config", "configs/cpt.yaml", "--model.base", "models/base")


def check_merged(base: Path, folder: Path) -> None:
    """The merged folder is whole, loads in plain transformers, and computes what base and adapter do."""
    before, after = tensors(base), tensors(folder)
    assert before.keys() == after.keys()
    adapted = PeftModel.from_pretrained(plain(base), folder / "adapter").eval()
    ids = torch.randint(4, 1000, (1, 40), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        wanted, found = adapted(ids).logits, plain(folder)(ids).logits
        changed = (plain(base)(ids).logits - wanted).norm()
    assert float((found - wanted).norm()) <= 1e-3 * float(changed)
    settings = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    assert settings["r"] == 4
    for tensor in before:
        if "vision" in tensor or "multi_modal" in tensor:
            assert digest(before[tensor]) == digest(after[tensor])


def digest(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()
