"""What a subclass or a callback adds to the module, thaws in its model or puts in its place: kept whole, or refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from taigi_lightning.errors import InputError
from taigi_lightning.fast_path.apply import causal_lm
from taigi_lightning.model.adapters import LoraSettings
from taigi_lightning.training.callbacks import ExportModel
from taigi_lightning.training.module import CausalLMModule
from tests.taigi_lightning.small_runs import batches, copied, loader, make, same, trainer

LORA = LoraSettings(r=4, lora_alpha=8)


class OwnTerm(CausalLMModule):
    """A loss term with parameters of its own, and a buffer that counts."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.probe = nn.Linear(2, 1)
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("fleeting", torch.zeros(3), persistent=False)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.seen += 1
        loss: Tensor = super().training_step(batch, batch_idx) + self.probe(torch.ones(2)).square().sum()
        return loss


class Late(CausalLMModule):
    """Thaws norms, and adds a part, once its model is there."""

    def configure_model(self, *arguments: Any, **options: Any) -> None:
        super().configure_model(*arguments, **options)
        for name, parameter in self.model.named_parameters():
            if name.endswith("input_layernorm.weight"):
                parameter.requires_grad_(True)
        self.probe = nn.Linear(2, 1)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss: Tensor = super().training_step(batch, batch_idx) + self.probe(torch.ones(2)).square().sum()
        return loss


class Second(CausalLMModule):
    """Trains another adapter than the module's own."""

    def configure_model(self, *arguments: Any, **options: Any) -> None:
        super().configure_model(*arguments, **options)
        self.model.add_adapter("b", LoraConfig(r=2, lora_alpha=8, target_modules=["q_proj"]))
        self.model.set_adapter("b")


class Reference(CausalLMModule):
    """Asks the base beside its adapter, and has it write, in the middle of a step."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        with torch.no_grad(), self.model.disable_adapter():
            self.loss_sum(batch)
        self.model.eval()
        self.model.generate(input_ids=torch.arange(4, 12)[None], max_new_tokens=2, do_sample=False)
        self.model.train()
        return super().training_step(batch, batch_idx)


def fit(folder: Path, module: CausalLMModule, **options: Any) -> pl.Trainer:
    run = trainer(folder, **({"max_steps": 2} | options))
    run.fit(module, loader(batches(2)))
    return run


@pytest.mark.filterwarnings("ignore:The fast path stands aside")
@pytest.mark.parametrize("kind", [OwnTerm, Late, Second])
def test_what_it_adds_is_trained_saved_and_loaded(
    tiny_llama_dir: Path, tmp_path: Path, kind: type[CausalLMModule]
) -> None:
    module = make(tiny_llama_dir, kind, lora=LORA)
    run = fit(tmp_path, module)
    trained = copied(module)
    wanted = {
        OwnTerm: ["probe.weight", "seen"],
        Late: ["probe.weight", "input_layernorm.weight"],
        Second: [".b."],
    }
    for part in wanted[kind]:
        assert any(part in name for name in trained)
    assert "fleeting" not in trained
    run.save_checkpoint(tmp_path / "a.ckpt")
    loaded = kind.load_from_checkpoint(tmp_path / "a.ckpt")
    assert same(copied(loaded), trained)
    module.freeze()
    assert same(copied(module), trained)
    module.unfreeze()
    assert {name for name, p in module.named_parameters() if p.requires_grad} == trained.keys() - {"seen"}


def test_an_own_term_is_trained_as_plain_torch_does(tiny_llama_dir: Path, tmp_path: Path) -> None:
    module: Any = make(tiny_llama_dir, OwnTerm, lora=LORA)
    probe = nn.Linear(2, 1)
    probe.load_state_dict(module.probe.state_dict())
    optimizer = torch.optim.AdamW(probe.parameters(), lr=1e-2)
    fit(tmp_path, module)
    for _ in range(2):
        optimizer.zero_grad()
        probe(torch.ones(2)).square().sum().backward()
        optimizer.step()
    torch.testing.assert_close(module.probe.state_dict(), probe.state_dict())


def test_asking_the_base_and_writing_in_between_change_nothing(tiny_llama_dir: Path, tmp_path: Path) -> None:
    found = []
    for kind in (CausalLMModule, Reference):
        module = make(tiny_llama_dir, kind)
        fit(tmp_path, module)
        found.append(copied(module))
    assert same(*found)


@pytest.mark.parametrize("kind", [Late, Second])
def test_an_export_without_what_trains_is_refused(
    tiny_llama_dir: Path, tmp_path: Path, kind: type[CausalLMModule]
) -> None:
    module = make(tiny_llama_dir, kind, lora=LORA)
    with pytest.raises(
        InputError, match="trains, and neither the exported adapter nor the merged model would have it"
    ):
        fit(tmp_path, module, callbacks=[ExportModel()])
    assert not (tmp_path / "adapter").exists()


def test_a_model_set_by_hand_answers_and_is_not_lost_in_training(
    tiny_llama_dir: Path, tmp_path: Path
) -> None:
    module = make(tiny_llama_dir, lora=LORA)
    base = AutoModelForCausalLM.from_pretrained(tiny_llama_dir, dtype=torch.float32)
    module.model = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj"]))
    trainer(tmp_path).validate(module, loader(batches(1)), verbose=False)
    with pytest.raises(InputError, match=r"module\.model was set by hand"):
        fit(tmp_path, module)


@pytest.mark.parametrize("merged", [False, True])
def test_a_merged_model_computes_as_its_adapter_did(
    tiny_llama_dir: Path, tmp_path: Path, merged: bool
) -> None:
    module = make(tiny_llama_dir, lora=LORA, quantization="none")
    fit(tmp_path, module)
    batch = batches(1)[0]
    wanted = module.loss_sum(batch)
    change: Callable[[], Any] = module.model.merge_and_unload if merged else module.model.merge_adapter
    module.model = change() or module.model
    torch.testing.assert_close(module.loss_sum(batch), wanted)
    logits = causal_lm(module.model)(batch["input_ids"]).logits[:, :-1].flatten(0, 1)
    plain = nn.functional.cross_entropy(logits, batch["labels"][:, 1:].flatten(), reduction="sum")
    torch.testing.assert_close(plain, wanted)
