"""Weights & Biases itself, offline: what a run leaves for `wandb sync`, and what it must not leave."""

import os
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.warm_python import WarmPython
from tests.working_folder import lay_out

pytest.importorskip("wandb")

ROOT = Path(__file__).parents[3]
SECRETS = {
    "WANDB_API_KEY": "0123456789abcdef0123456789abcdef01234567",
    "HF_TOKEN": "hf_neverToBeSeenAnywhere",
}
TEXT = "阿明下晡欲去市仔買菜，伊毋知影按怎行。今仔日的天氣真好，咱來去海邊仔𨑨迌。"
FIT = (
    "fit --config configs/cpt.yaml --config configs/tiny.yaml --model.base models/base --trainer.max_steps 1 "
    "--data.init_args.max_length 64 --trainer.val_check_interval 1000 --model.lora.r 2 "
    "--trainer.logger WandbLogger --trainer.logger.init_args.project taigi-lightning "
    "--trainer.logger.init_args.name Taigi-CPT-V2 --trainer.logger.init_args.offline true --export.log_artifact true "
    "--run.overwrite true --checkpoint.every_n_train_steps 1"
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, tiny_llama_dir: Path, warm_python: WarmPython) -> Path:
    """A working folder in which one command was run twice and then resumed, with secrets in the environment."""
    folder = tmp_path_factory.mktemp("home")
    texts = [f"{TEXT * 2}{n}" for n in range(20)]
    lay_out(folder, tiny_llama_dir, texts, held_out=4, manifest='{"characters": 1}')
    places = {name: str(folder / "wandb-home") for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR")}
    environment = {**os.environ, **SECRETS, **places, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    for number in (1, 2, 3):
        on = (
            ["--run.overwrite", "false", "--ckpt_path", "last", "--trainer.max_steps", "2"]
            if number == 3
            else []
        )
        done = subprocess.run(
            [warm_python.executable, "-m", "taigi_lightning", *FIT.split(), *on],
            cwd=folder, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        (folder / f"printed-{number}.txt").write_text(done.stdout + done.stderr)
    return folder


def records(home: Path) -> list[bytes]:
    """What each run recorded for the server, oldest first."""
    return [path.read_bytes() for path in sorted(home.glob("wandb/offline-run-*/run-*.wandb"))]


def test_a_second_run_leaves_a_second_record(home: Path) -> None:
    assert len(records(home)) == 3
    assert len(list(home.glob("models/cpt_model/logs/version_*/metrics.csv"))) == 3


def test_a_resumed_run_goes_on_as_the_same_one(home: Path) -> None:
    first, second, resumed = (path.name.split("-")[-1] for path in sorted(home.glob("wandb/offline-run-*")))
    assert first != second == resumed


def test_numbers_are_numbers_in_the_config(home: Path) -> None:
    text = (home / "models/cpt_model/logs/version_0/hparams.yaml").read_text()
    assert "!!python" not in text
    config = yaml.safe_load(text)
    assert config["model"]["lora"]["r"] == 2
    assert config["precision_in_use"] == "32-true"


def test_the_record_holds_config_metrics_and_the_artifact(home: Path) -> None:
    for record in records(home):
        for part in (b"lora_dropout", b"train/loss", b"Taigi-CPT-V2-adapter"):
            assert part in record, part
        for file in (b"adapter/adapter_model.safetensors", b"config.yaml", b"manifest.json"):
            assert file in record, file


def test_no_secret_is_written_anywhere(home: Path) -> None:
    files = [path for path in home.rglob("*") if path.is_file()]
    assert len(files) > 30
    for path in files:
        content = path.read_bytes()
        for name, secret in SECRETS.items():
            assert secret.encode() not in content, f"{name} in {path}"


def test_an_artifact_without_a_logger_for_it_is_refused_before_training(
    home: Path, warm_python: WarmPython
) -> None:
    command = [*FIT.split(), "--trainer.logger", "null", "--trainer.default_root_dir", "models/other"]
    done = subprocess.run(
        [warm_python.executable, "-m", "taigi_lightning", *command],
        cwd=home, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "no WandbLogger is under trainer.logger" in done.stderr
    assert not (home / "models" / "other" / "adapter").exists()
