"""A module outside Lightning's Trainer: loops of one's own, Fabric, processes that hand back what they trained."""

from pathlib import Path

import pytest
import torch
from lightning.fabric import Fabric

from taigi_lightning.data.cpt import CPTDataModule
from taigi_lightning.errors import InputError
from taigi_lightning.model.adapters import LoraSettings
from tests.taigi_lightning.small_runs import batches, copied, loader, make, same, trainer
from tests.working_folder import TEXT

LORA = LoraSettings(r=4, lora_alpha=8)


@pytest.mark.parametrize("with_fabric", [False, True])
def test_a_loop_of_ones_own_trains_what_a_trainer_does(
    tiny_llama_dir: Path, tmp_path: Path, with_fabric: bool
) -> None:
    wanted = make(tiny_llama_dir, lora=LORA)
    trainer(tmp_path, max_steps=2, accumulate_grad_batches=2).fit(wanted, loader(batches(4), 2))

    module = make(tiny_llama_dir, lora=LORA)
    module.configure_model(device="cpu", training=True)
    optimizer = torch.optim.AdamW((p for p in module.parameters() if p.requires_grad), lr=1e-2)
    fabric, step = Fabric(accelerator="cpu", devices=1), module.training_step
    if with_fabric:
        around, optimizer = fabric.setup(module, optimizer)
        around.mark_forward_method("training_step")
        step = around.training_step
    for number, batch in enumerate(loader(batches(4), 2)):
        fabric.backward(step(batch, number))
        if number % 2:
            optimizer.step()
            optimizer.zero_grad()
    for name, value in copied(wanted).items():
        torch.testing.assert_close(copied(module)[name], value, rtol=1e-5, atol=1e-6)


def test_without_a_trainer_processes_still_share_the_rows(
    tiny_llama_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = []
    for rank in range(2):
        monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
        rows = [{"text": f"{TEXT}{n}"} for n in range(6)]
        data = CPTDataModule(rows, str(tiny_llama_dir), batch_size=1, max_length=64, packing=False)
        data.setup("fit")
        given += [tuple(batch["input_ids"].flatten().tolist()) for batch in data.train_dataloader()]
    assert len(given) == len(set(given)) == 6


def test_an_optimizer_of_no_model_is_refused_when_it_is_used(tiny_llama_dir: Path) -> None:
    module = make(tiny_llama_dir)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2)
    for use in (optimizer.step, optimizer.zero_grad):
        with pytest.raises(InputError, match=r"Call module\.configure_model\(\) before you make it"):
            use()
    assert sum(parameter.numel() for parameter in module.parameters()) == 0
    for freeze in (module.freeze, lambda: module.requires_grad_(False)):
        with pytest.raises(InputError, match="before you freeze or thaw it"):
            freeze()


def test_a_frozen_module_is_not_trained(tiny_llama_dir: Path, tmp_path: Path) -> None:
    module = make(tiny_llama_dir)
    module.configure_model(device="cpu", training=True)
    module.freeze()
    with pytest.raises(InputError, match="Nothing would train: all parameters are frozen"):
        trainer(tmp_path, max_steps=1).fit(module, loader(batches(1)))


def test_what_is_loaded_before_there_is_a_model_waits_for_it(tiny_llama_dir: Path, tmp_path: Path) -> None:
    trained = make(tiny_llama_dir)
    trainer(tmp_path, max_steps=1).fit(trained, loader(batches(1)))
    module = make(tiny_llama_dir)
    module.load_state_dict(copied(trained))
    assert same(copied(module), copied(trained))
    module.configure_model()
    assert same(copied(module), copied(trained))
    other = make(tiny_llama_dir, lora=LoraSettings(r=8, lora_alpha=8))
    other.load_state_dict(copied(trained))
    with pytest.raises(RuntimeError, match="size mismatch"):
        other.configure_model()


@pytest.mark.filterwarnings("ignore")
def test_processes_of_a_notebook_hand_back_what_they_trained(tiny_llama_dir: Path, tmp_path: Path) -> None:
    module = make(tiny_llama_dir)
    trainer(tmp_path, max_steps=1, strategy="ddp_notebook", devices=1).fit(module, loader(batches(2)))
    alone = make(tiny_llama_dir)
    trainer(tmp_path, max_steps=1).fit(alone, loader(batches(2)))
    assert module.model is None
    assert same(copied(module), copied(alone))


def test_a_module_within_another_keeps_its_state(tiny_llama_dir: Path) -> None:
    module = make(tiny_llama_dir)
    module.configure_model()
    outer = torch.nn.ModuleDict({"inner": module})
    assert outer.state_dict().keys() == {f"inner.{name}" for name in module.state_dict()}
    module.load_state_dict(module.state_dict())
    names = module.state_dict().keys()
    module.freeze()
    assert module.state_dict().keys() == names
    module.unfreeze()
    assert {name for name, p in module.named_parameters() if p.requires_grad} == names
