"""Which strategies are refused, how SLURM is found, and what DDP is told to leave alone."""

import signal
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy, ModelParallelStrategy, Strategy
from lightning.pytorch.utilities import rank_zero_only

from taigi_lightning.__main__ import main
from taigi_lightning.errors import InputError
from taigi_lightning.kernels.host_memory import held_in_place
from taigi_lightning.model.adapters import LoraSettings
from taigi_lightning.training.callbacks import SaveOnSignal
from taigi_lightning.training.distributed import check_strategy
from taigi_lightning.training.module import CausalLMModule

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("strategy", ["fsdp", "deepspeed_stage_3", FSDPStrategy(), ModelParallelStrategy()])
def test_strategies_that_divide_weights_are_refused(strategy: str | Strategy) -> None:
    with pytest.raises(InputError, match=r"--trainer\.strategy ddp"):
        check_strategy(strategy)


def test_a_module_refuses_them_without_the_command_line(tiny_llama_dir: Path, tmp_path: Path) -> None:
    fit = pl.Trainer(
        default_root_dir=tmp_path, accelerator="cpu", devices=1, strategy="auto", logger=False, max_steps=1
    )
    module = CausalLMModule(str(tiny_llama_dir), lora=LoraSettings(r=2, lora_alpha=4))
    module.trainer = fit
    fit._accelerator_connector.strategy = ModelParallelStrategy()
    with pytest.raises(InputError, match=r"--trainer\.strategy ddp"):
        module.configure_model()


@pytest.mark.parametrize("strategy", ["auto", "ddp", DDPStrategy()])
def test_strategies_that_copy_weights_pass(strategy: str | Strategy) -> None:
    check_strategy(strategy)


@pytest.mark.parametrize(
    ("strategy", "name"),
    [
        ("fsdp", "fsdp"),
        ("deepspeed_stage_2", "deepspeed_stage_2"),
        ("{class_path: lightning.pytorch.strategies.ModelParallelStrategy}", "ModelParallelStrategy"),
    ],
)
def test_the_command_line_refuses_them_before_anything_is_loaded(
    strategy: str,
    name: str,
    tiny_llama_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = ["--config", str(ROOT / "configs/cpt.yaml"), "--config", str(ROOT / "configs/tiny.yaml")]
    stage = ["taigi_lightning", "fit", *config, "--model.base", str(tiny_llama_dir)]
    monkeypatch.setattr(sys, "argv", [*stage, "--trainer.strategy", strategy])
    assert main() == 1
    printed = capsys.readouterr().err
    assert f"error: trainer.strategy is {name}" in printed
    assert "--trainer.strategy ddp" in printed
    assert "Traceback" not in printed


# ---- SLURM ----------------------------------------------------------------------------------------


@pytest.mark.posix("SIGUSR1")
def test_slurm_is_found_and_its_requeue_signal_stays_lightnings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "SLURM_JOB_ID": "1", "SLURM_JOB_NAME": "taigi", "SLURM_NTASKS": "4", "SLURM_NNODES": "2",
        "SLURM_NTASKS_PER_NODE": "2", "SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_NODEID": "1",
        "SLURM_NODELIST": "node[1-2]", "SLURM_JOB_NODELIST": "node[1-2]",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    # The strategy makes this process rank 3 for good: later tests of it would find every rank-zero message gone.
    monkeypatch.setattr(rank_zero_only, "rank", 0)
    trainer = pl.Trainer(accelerator="cpu", devices=2, num_nodes=2, strategy="ddp", logger=False)
    connector = trainer._accelerator_connector
    assert isinstance(connector.cluster_environment, SLURMEnvironment)
    assert (trainer.world_size, trainer.global_rank, trainer.node_rank) == (4, 3, 1)

    requeue, before = signal.getsignal(signal.SIGUSR1), signal.getsignal(signal.SIGTERM)
    callback = SaveOnSignal()
    callback.on_train_start(trainer, pl.LightningModule())
    try:
        assert signal.getsignal(signal.SIGUSR1) == requeue
        assert signal.getsignal(signal.SIGTERM) == callback._receive
    finally:
        callback.teardown(trainer, pl.LightningModule(), "fit")
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize(("waiting", "layers"), [(1, 1), ("all", 2)])
def test_ddp_leaves_alone_exactly_what_waits_on_the_host(
    waiting: Any, layers: int, tiny_llama_dir: Path
) -> None:
    """What is not on the card, which DDP refuses, and nothing that came back to it after loading."""
    module = CausalLMModule(base=str(tiny_llama_dir), lora=LoraSettings(r=4), weights_on_host=waiting)
    module.configure_model()
    held = {f"{name}.weight" for name, part in module.named_modules() if held_in_place(part)}
    assert set(module._ddp_params_and_buffers_to_ignore) == held
    assert len(held) == 7 * layers
