"""A sweep over learning rate and rank: by W&B's agent, whose command is run here, and by the README's loop."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.warm_python import WarmPython
from tests.working_folder import lay_out, link

ROOT = Path(__file__).parent.parent
TEXT = "阿明下晡欲去市仔買菜，伊毋知影按怎行。今仔日的天氣真好，咱來去海邊仔𨑨迌。"
FEW = {"trainer.max_steps": 2, "trainer.val_check_interval": 2, "data.init_args.max_length": 64}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A working folder with the configs, the tiny base and a small corpus."""
    tiny = ROOT / "models" / "tiny-taigi"
    lay_out(tmp_path, tiny, [f"{TEXT * 2}{n}" for n in range(20)], held_out=4)
    link(tmp_path / "models" / "tiny-taigi", tiny)
    return tmp_path


def run(python: WarmPython, home: Path, command: list[str], **variables: str) -> str:
    places = {name: str(home / "wandb-home") for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR")}
    path = os.pathsep.join((str(Path(python.executable).parent), os.environ["PATH"]))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": path, "WANDB_MODE": "offline", **places}
    done = subprocess.run(
        command, cwd=home, env={**environment, **variables}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def test_the_agents_command_trains_with_its_learning_rate_and_rank(
    home: Path, warm_python: WarmPython
) -> None:
    pytest.importorskip("wandb")
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    sweep = yaml.safe_load((ROOT / "configs" / "sweep.yaml").read_text(encoding="utf-8"))
    last = {name: settings["values"][-1] for name, settings in sweep["parameters"].items()}
    chosen = {name: {"value": value} for name, value in (last | FEW).items()}
    flags = create_sweep_command_args({"args": chosen})["args"]
    command = [
        w for word in create_sweep_command(sweep["command"]) for w in (flags if word == "${args}" else [word])
    ]
    run(warm_python, home, command, WANDB_RUN_ID="abc123", WANDB_PROJECT="p")
    config = yaml.safe_load((home / "models/sweep/abc123/config.yaml").read_text(encoding="utf-8"))
    assert config["model"]["optimizer"]["init_args"]["lr"] == last["model.optimizer.init_args.lr"]
    assert config["model"]["lora"]["r"] == last["model.lora.r"]
    record = next(home.glob("wandb/offline-run-*-abc123/run-abc123.wandb")).read_bytes()
    assert sweep["metric"]["name"].encode() in record


@pytest.mark.posix("a loop of the shell")
def test_the_loop_of_the_readme_ranks_four_runs(home: Path, warm_python: WarmPython) -> None:
    lines = re.findall(
        r"^(?:for lr in|python -c) .*$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    loop, ranking = lines
    few = shlex.join(f"--{name}={value}" for name, value in FEW.items())
    run(warm_python, home, ["bash", "-ec", loop.replace("; done; done", f" {few}; done; done")])
    printed = run(warm_python, home, ["bash", "-ec", ranking])
    assert len(re.findall(r"models/sweep/[\d.e-]+/r\d+\S* +\d+\.\d+", printed)) == 4
