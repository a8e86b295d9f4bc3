"""An adapter that is changed after `apply_fast_path` read it is the one that is computed with."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from taigi_lightning.fast_path.apply import apply_fast_path, causal_lm
from taigi_lightning.planning.memory import PROJECTIONS
from tests.taigi_lightning.fast_path.small_decoders import SIZES, loss_of, nf4_llama, with_lora


def adapted(model: Any) -> list[Any]:
    return [module for module in model.modules() if len(getattr(module, "lora_A", ()))]


def another_adapter(model: Any) -> None:
    model.add_adapter("b", LoraConfig(r=4, lora_alpha=32, target_modules=PROJECTIONS, task_type="CAUSAL_LM"))
    model.set_adapter("b")
    for module in adapted(model):
        nn.init.ones_(module.lora_B["b"].weight)


def another_scale(model: Any) -> None:
    for module in adapted(model):
        module.scaling["default"] = 0.3


def new_matrices(model: Any) -> None:
    for module in adapted(model):
        module.lora_A["default"] = nn.Linear(module.in_features, 4, bias=False)


def no_dropout_any_more(model: Any) -> None:
    for module in adapted(model):
        module.lora_dropout["default"] = nn.Identity()


def taken_off(model: Any) -> None:
    model.unload()


def one_scale(model: Any) -> None:
    adapted(model)[-1].scaling["default"] = 0.3


def one_matrix(model: Any) -> None:
    module = adapted(model)[-1]
    module.lora_A["default"] = nn.Linear(module.in_features, 4, bias=False)


def one_assigned(model: Any) -> None:
    name = [name for name, _ in model.named_parameters() if "lora_B" in name][-1]
    value = torch.randn_like(model.get_parameter(name)).requires_grad_()
    model.load_state_dict({name: value}, strict=False, assign=True)


def one_disabled(model: Any) -> None:
    adapted(model)[-1].enable_adapters(False)


def one_merged(model: Any) -> None:
    adapted(model)[-1].merge()


CHANGES = [another_adapter, another_scale, new_matrices, no_dropout_any_more, taken_off]
CHANGES += [one_scale, one_matrix, one_assigned, one_disabled, one_merged]


def computed(model: Any) -> list[Tensor]:
    """The loss, and the gradient of each matrix that is used."""
    loss, trained = loss_of(model), [p for p in model.parameters() if p.requires_grad]
    found = torch.autograd.grad(loss, trained, allow_unused=True) if loss.requires_grad else ()
    return [loss.detach(), *(gradient for gradient in found if gradient is not None)]


@pytest.fixture(scope="module", params=["llama", "stablelm"])
def folder(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """A random base whose layers are written out, or are not."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp(request.param)
    config = AutoConfig.for_model(request.param, **SIZES)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    return folder


@pytest.mark.filterwarnings("ignore:Merge lora module to 4-bit")
@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_adapter_is_the_one_that_is_computed_with(folder: Path, change: Any) -> None:
    found, dropout = [], 0.3 if change is no_dropout_any_more else 0.0
    for fast in (False, True):
        model = with_lora(nf4_llama(folder, AutoModelForCausalLM), dropout=dropout)
        if fast:
            computed(apply_fast_path(model))
        torch.manual_seed(5)
        change(model)
        found.append(computed(causal_lm(model)))
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)
