"""A module without a trainer, and one that several stages use in any order."""

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from taigi_lightning.errors import InputError
from taigi_lightning.model.adapters import LoraSettings
from taigi_lightning.training.module import CausalLMModule
from tests.taigi_lightning.small_runs import State, batches, copied, loader, make, same, trainer

LORA = LoraSettings(r=4, lora_alpha=8, lora_dropout=0.3)


def fit(folder: Path, module: CausalLMModule) -> State:
    run = trainer(folder, max_steps=2)
    run.fit(module, loader(batches(2)))
    run.save_checkpoint(folder / "step=2.ckpt")
    return copied(module)


@pytest.fixture(scope="module")
def alone(tiny_llama_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, State]:
    """What `fit` trains by itself, and the folder of its checkpoint."""
    folder = tmp_path_factory.mktemp("alone")
    return folder, fit(folder, make(tiny_llama_dir, lora=LORA))


@pytest.mark.parametrize("before", [["validate"], ["fit", "validate"], ["validate", "validate"]])
def test_fit_trains_as_it_does_alone_whatever_came_before(
    tiny_llama_dir: Path, tmp_path: Path, alone: tuple[Path, State], before: list[str]
) -> None:
    module = make(tiny_llama_dir, lora=LORA)
    for stage in before:
        if stage == "fit":
            trainer(tmp_path, max_steps=0).fit(module, loader(batches(2)))
        else:
            trainer(tmp_path).validate(module, loader(batches(1)), verbose=False)
    trained = fit(tmp_path, module)
    assert same(trained, alone[1])


def test_a_checkpoint_is_a_model_without_a_trainer(tiny_llama_dir: Path, alone: tuple[Path, State]) -> None:
    module = CausalLMModule.load_from_checkpoint(alone[0] / "step=2.ckpt")
    assert same(copied(module), alone[1])
    assert module.hparams["lora"] == {
        "r": 4, "lora_alpha": 8, "lora_dropout": 0.3, "target_modules": module.lora.target_modules  # type: ignore
    }  # fmt: skip
    assert module.hparams["base"] == str(tiny_llama_dir)
    ids = torch.arange(4, 20)[None]
    with torch.no_grad():
        found = module.eval()(ids).logits
        fresh = make(tiny_llama_dir, lora=LORA)
        fresh.configure_model(device="cpu", dtype=torch.float32)
        fresh.load_state_dict(alone[1], strict=False)
        assert torch.equal(found, fresh(input_ids=ids).logits)
    assert found.shape[:2] == (1, 16)


def test_copies_work_before_the_model_is_there_and_say_why_not_after(tiny_llama_dir: Path) -> None:
    module = make(tiny_llama_dir, lora=LORA, optimizer=torch.optim.AdamW)
    assert copy.deepcopy(module).hparams == module.hparams
    assert pickle.loads(pickle.dumps(module)).hparams == module.hparams
    with pytest.raises(InputError, match=r"call module\.configure_model"):
        module(torch.zeros(1, 4, dtype=torch.int64))
    module.configure_model()
    with pytest.raises(InputError, match="load_from_checkpoint"):
        copy.deepcopy(module)


@pytest.mark.parametrize(
    "make_schedule",
    [
        lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5),
        lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=4),
        torch.optim.lr_scheduler.ReduceLROnPlateau,
    ],
)
def test_schedules_of_torch_work_and_resume(tiny_llama_dir: Path, tmp_path: Path, make_schedule: Any) -> None:
    def run(steps: int, resume: Path | None = None) -> float:
        done = trainer(tmp_path, max_steps=steps)
        module = make(tiny_llama_dir, lr_scheduler=make_schedule)
        done.fit(module, loader(batches(4)), loader(batches(1)), ckpt_path=resume, weights_only=True)
        done.save_checkpoint(tmp_path / f"{steps}.ckpt")
        return float(done.optimizers[0].param_groups[0]["lr"])

    whole = run(3)
    run(2)
    assert run(3, tmp_path / "2.ckpt") == pytest.approx(whole)


def test_a_run_that_only_time_ends(tiny_llama_dir: Path, tmp_path: Path) -> None:
    limits: dict[str, Any] = {"max_steps": -1, "max_epochs": -1, "max_time": {"seconds": 1}}
    with pytest.raises(InputError, match="where the run ends"):
        trainer(tmp_path, **limits).fit(make(tiny_llama_dir, lr_scheduler="cosine"), loader(batches(1)))
    timed = trainer(tmp_path, **limits)
    timed.fit(make(tiny_llama_dir, lr_scheduler="constant_with_warmup"), loader(batches(1)))
    assert timed.global_step > 0
