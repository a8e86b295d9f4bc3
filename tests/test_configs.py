"""Every YAML in configs/ becomes the objects it names, and stays short."""

from pathlib import Path

import pytest
import torch
import yaml

from taigi_lightning.cli.lightning_cli import TaigiCLI, main
from taigi_lightning.model.adapters import LoraSettings, attach_adapter, save_adapter
from taigi_lightning.model.base_model import load_base_model
from taigi_lightning.training.callbacks import ExportModel
from taigi_lightning.training.module import CausalLMModule
from tests.working_folder import link

ROOT = Path(__file__).parent.parent
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
STAGES = {
    "cpt": ["--config", "configs/cpt.yaml"],
    "sft": ["--config", "configs/sft.yaml", "--model.base=models/base"],
    "predict": [
        "--config",
        "configs/predict.yaml",
        "--model.base=models/base",
        "--model.adapter=models/adapter",
    ],
    "instruct": ["--config", "configs/instruct.yaml", "--model.base=models/base"],
    "gemma3_cpt": ["--config", "configs/gemma3_cpt.yaml", "--model.base=models/base"],
    "gemma3_sft": ["--config", "configs/gemma3_sft.yaml", "--model.base=models/base"],
    "tiny_base": ["--config", "configs/tiny_base.yaml", "--model.base=models/base"],
    "tiny over cpt": [
        "--config",
        "configs/cpt.yaml",
        "--config",
        "configs/tiny.yaml",
        "--config",
        "configs/tiny_cpt.yaml",
        "--model.base=models/base",
    ],
    "tiny over sft": [
        "--config",
        "configs/sft.yaml",
        "--config",
        "configs/tiny.yaml",
        "--config",
        "configs/tiny_sft.yaml",
        "--model.base=models/base",
    ],
}


def test_no_config_is_forgotten_here() -> None:
    tried = {
        argument for arguments in STAGES.values() for argument in arguments if argument.endswith(".yaml")
    }
    # clean.yaml is the corpus tools' own, sweep.yaml is for W&B; their tests read them.
    elsewhere = {"configs/clean.yaml", "configs/sweep.yaml"}
    assert {f"configs/{path.name}" for path in CONFIGS} - elsewhere == tried


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_a_config_has_at_most_45_lines(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 45


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_is_instantiated(
    name: str, tmp_path: Path, tiny_llama_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models").mkdir()
    link(tmp_path / "models/base", tiny_llama_dir)
    link(tmp_path / "configs", ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    if name == "predict":
        base = load_base_model(
            "models/base", quantization="none", compute_dtype=torch.float32, device=torch.device("cpu")
        )
        save_adapter(attach_adapter(base, LoraSettings(r=2)), Path("models/adapter"), "models/base")
    command = "predict" if name == "predict" else "fit"
    monkeypatch.setattr("sys.argv", ["taigi_lightning", command, *STAGES[name]])
    monkeypatch.setattr(TaigiCLI, "_run_subcommand", lambda *_: None)  # everything up to the run itself
    cli = main()
    assert isinstance(cli.model, CausalLMModule)
    assert type(cli.datamodule).__name__ in (
        "CPTDataModule",
        "SFTDataModule",
        "InstructionDataModule",
        "PredictDataModule",
    )
    assert cli.datamodule.tokenizer == cli.model.base
    assert any(isinstance(callback, ExportModel) for callback in cli.trainer.callbacks)


def test_the_stages_have_the_settings_of_the_project() -> None:
    wanted = {
        "cpt": (64, 128, 0.05, 2e-4, 1000, "Taigi-CPT-V2", "Bohanlu/Taigi-Llama-2-13B"),
        "sft": (16, 32, 0.1, 1e-5, 100, "Taigi-SFT-V2", "models/cpt_model"),
    }
    for stage, settings in wanted.items():
        config = yaml.safe_load((ROOT / f"configs/{stage}.yaml").read_text(encoding="utf-8"))
        lora, trainer = config["model"]["lora"], config["trainer"]
        assert (
            lora["r"],
            lora["lora_alpha"],
            lora["lora_dropout"],
            config["model"]["optimizer"]["init_args"]["lr"],
            trainer["max_steps"],
            trainer["logger"]["init_args"]["name"],
            config["model"]["base"],
        ) == settings
        assert config["data"]["init_args"]["batch_size"] * trainer["accumulate_grad_batches"] == 16
        assert config["data"]["init_args"]["max_length"] == 2048
        assert config["seed_everything"] == 9527
