"""`plan`: it reads a config as `fit` does, and what it advises fits."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from taigi_lightning.errors import InputError
from taigi_lightning.memory import GIB
from taigi_lightning.plan import fitting_flags, needs, plan_command
from taigi_lightning.run_settings import KNOWN, Settings, base_shape, read_config, read_settings

ROOT = Path(__file__).parent.parent.parent
CONFIGS = [
    ["--config", "configs/cpt.yaml"],
    ["--config", "configs/sft.yaml", "--model.base", "models/tiny-taigi"],
    ["--config", "configs/cpt.yaml", "--config", "configs/tiny.yaml"],
    ["--config", "configs/tiny_base.yaml"],
    ["--config=configs/cpt.yaml", "--trainer.max_steps=7", "--data.batch_size", "2", "--model.lora.r", "8"],
    ["--config", "configs/cpt.yaml", "--model.optimizer", "torch.optim.SGD", "--export.merge", "false"],
    ["--model.base", "models/tiny-taigi", "--data", "CPTDataModule", "--model.quantization", "none"],
]


@pytest.mark.parametrize("arguments", CONFIGS, ids=" ".join)
def test_plan_and_fit_read_the_same_settings(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from taigi_lightning import cli

    class Parsed(Exception):  # noqa: N818  it is how the test leaves the command line early
        pass

    def stop(self: Any) -> None:
        raise Parsed(self.config["fit"].as_dict())

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["taigi_lightning", "fit", *arguments])
    monkeypatch.setattr(cli.TaigiCLI, "before_instantiate_classes", stop)
    with pytest.raises(Parsed) as parsed:
        cli.main()
    whole = parsed.value.args[0]
    if isinstance(whole["model"]["lora"], dict):
        whole["model"]["lora"]["target_modules"] = tuple(whole["model"]["lora"]["target_modules"])
    assert read_settings(read_config(arguments)) == read_settings(whole)


def test_the_default_run_needs_what_was_measured_of_its_parts() -> None:
    need = needs(Settings(rank=64), KNOWN["Bohanlu/Taigi-Llama-2-13B"])
    assert need.parts["adapter"] == need.parts["gradients"] == 4 * 250_347_520
    assert need.parts["weights, projections"] == pytest.approx(6.1 * GIB, rel=0.01)


def test_a_budget_fills_the_card_and_no_more() -> None:
    shape = KNOWN["Bohanlu/Taigi-Llama-2-13B"]
    for card in (24, 40, 48):
        need = needs(Settings(rank=64), shape, card * GIB)
        assert 0.85 * card * GIB < need.total < card * GIB


@pytest.mark.parametrize("card", [12, 14])
def test_what_is_advised_fits(card: int) -> None:
    shape = KNOWN["Bohanlu/Taigi-Llama-2-13B"]
    settings = Settings(rank=64, activation_budget=1.0)
    flags = fitting_flags(settings, shape, card * GIB)
    assert flags
    words = [word for flag in flags for word in flag.split()]
    advised = read_settings(
        read_config(["--model.lora.r", "64", "--trainer.accumulate_grad_batches", "1", *words])
    )
    assert needs(advised, shape, card * GIB).total <= card * GIB
    assert advised.step_tokens == settings.step_tokens or advised.max_length < 2048


def test_nothing_is_advised_where_nothing_helps() -> None:
    assert fitting_flags(Settings(rank=64), KNOWN["Bohanlu/Taigi-Llama-2-13B"], 4 * GIB) is None


def test_the_table_says_what_a_user_asks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    arguments = ["--config", "configs/cpt.yaml", "--gpu_memory", "16GiB", "--tokens_per_second", "8000"]
    plan_command(arguments)
    printed = capsys.readouterr().out
    for words in [
        "250,347,520",
        "32,768 tokens",
        "At 8,000 tokens/s the run takes 1.1 hours",
        "merged model",
    ]:
        assert words in printed


def test_epochs_come_from_the_corpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "manifest.json").write_text(json.dumps({"characters": 4096}))
    monkeypatch.chdir(tmp_path)
    plan_command(["--data.data_dir", "corpus", "--trainer.max_steps", "1", "--gpu_memory", "80GB"])
    assert "2.0 times the corpus" in capsys.readouterr().out


def test_an_unknown_base_says_how_to_make_it_known(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"hf download nobody/nothing config\.json"):
        base_shape("nobody/nothing")
    with pytest.raises(InputError, match="when the CPT stage has ended"):
        base_shape("models/cpt_model_of_tomorrow")


def test_planning_imports_no_torch() -> None:
    code = "import sys, taigi_lightning.plan; print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"
