"""An update that stays frozen beside the weights: the fast path computes what PEFT computes with two adapters."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import nn
from transformers import (
    GemmaConfig,
    GemmaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    StableLmConfig,
    StableLmForCausalLM,
)

from taigi_lightning.fast_path.apply import apply_fast_path, causal_lm, fast_decoder
from taigi_lightning.fast_path.prefill import last_hidden
from taigi_lightning.model.base_model import load_base_model
from taigi_lightning.model.frozen_update import add_frozen_updates
from taigi_lightning.planning.activation_plan import EVERYTHING, INPUT_ONLY, RESIDUAL
from taigi_lightning.planning.memory import PROJECTIONS
from taigi_lightning.tasks.prefix_tree import pack_trees, token_tree
from tests.taigi_lightning.fast_path.small_decoders import (
    SIZES,
    gradients,
    llama,
    loss_of,
    nf4_llama,
    with_lora,
    worst,
)
from tests.taigi_lightning.model.saved_adapters import save_adapter

# Ranks that are no multiple of the columns' alignment, and projections without an update.
EARLIER = {
    "r": 3,
    "lora_alpha": 7,
    "target_modules": ["q_proj", "v_proj", "o_proj", "gate_proj", "down_proj"],
}


def two_adapters(model: Any, *earlier: Path) -> Any:
    """PEFT's own way, the outside reference: the earlier adapters active beside the one that trains."""
    names = [f"earlier{number}" for number in range(len(earlier))]
    for name, folder in zip(names, earlier, strict=True):
        model.load_adapter(str(folder), adapter_name=name)
    model.base_model.set_adapter(["default", *names])
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".default." in name)
    return model.train()


def evaluated(folder: Path) -> Any:
    """A 4-bit base whose weights an evaluation on a CPU leaves as they are."""
    cpu = torch.device("cpu")
    return load_base_model(str(folder), quantization="nf4", compute_dtype=torch.float32, device=cpu)


@pytest.fixture
def earlier(tmp_path: Path, nf4_folder: Path) -> Path:
    return save_adapter(nf4_folder, tmp_path / "earlier", **EARLIER)


@pytest.fixture
def updated(nf4_folder: Path, earlier: Path) -> Any:
    """The base with the earlier stage's update beside its weights."""
    base = evaluated(nf4_folder)
    add_frozen_updates(base, [earlier], torch.float32)
    return base


@pytest.mark.parametrize("saving", [EVERYTHING, INPUT_ONLY, RESIDUAL])
@pytest.mark.parametrize("unpacked", [0, 1])
def test_gradients_beside_a_frozen_update(
    nf4_folder: Path, earlier: Path, updated: Any, saving: Any, unpacked: int
) -> None:
    wanted = gradients(two_adapters(with_lora(nf4_llama(nf4_folder)), earlier))
    model = with_lora(updated)
    assert worst(gradients(model), wanted) < 1e-5  # transformers' own pass, through the hooks
    apply_fast_path(model, unpacked_layers=unpacked)
    causal_lm(model).fast_decoder.plans[(2, 12)] = [saving] * 2
    assert len(wanted) == 28
    assert worst(gradients(model), wanted) < 1e-5


def test_two_stages_before_make_one_update_of_the_summed_rank(
    tmp_path: Path, nf4_folder: Path, earlier: Path
) -> None:
    second = save_adapter(nf4_folder, tmp_path / "second", r=5, use_rslora=True)
    wanted = gradients(two_adapters(with_lora(nf4_llama(nf4_folder)), earlier, second))
    base = nf4_llama(nf4_folder)
    add_frozen_updates(base, [earlier, second], torch.float32)
    assert base.get_decoder().layers[0].self_attn.q_proj.frozen_update.a.shape == (8, 64)
    assert worst(gradients(apply_fast_path(with_lora(base))), wanted) < 1e-5


def test_dropout_leaves_the_frozen_update_alone(updated: Any) -> None:
    model = with_lora(updated, dropout=0.5)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.zeros_(parameter)  # what is left of the output has no dropout
    wanted = loss_of(model.eval())
    torch.testing.assert_close(loss_of(apply_fast_path(model.train())), wanted)


@pytest.mark.parametrize("architecture", ["gemma", "qwen2", "stablelm"])  # the last through its own layers
def test_other_architectures_have_it_too(tmp_path: Path, architecture: str) -> None:
    torch.manual_seed(0)
    kinds: dict[str, Any] = {
        "gemma": (GemmaForCausalLM, GemmaConfig(**SIZES, head_dim=16)),
        "qwen2": (Qwen2ForCausalLM, Qwen2Config(**SIZES)),
        "stablelm": (StableLmForCausalLM, StableLmConfig(**SIZES)),
    }
    kind, config = kinds[architecture]
    kind(config).save_pretrained(tmp_path / "base")
    earlier = save_adapter(tmp_path / "base", tmp_path / "earlier", **EARLIER)
    wanted = gradients(two_adapters(with_lora(nf4_llama(tmp_path / "base", kind)), earlier))
    base = nf4_llama(tmp_path / "base", kind)
    add_frozen_updates(base, [earlier], torch.float32)
    assert worst(gradients(apply_fast_path(with_lora(base))), wanted) < 1e-5


@pytest.mark.parametrize("adapted", [True, False])
def test_prediction_has_it_with_and_without_an_adapter(nf4_folder: Path, updated: Any, adapted: bool) -> None:
    model = (with_lora(updated) if adapted else updated).eval()
    sequence = [5, 6, 7, 8, 9, 10]
    wanted = model(torch.tensor([sequence]), output_hidden_states=True).hidden_states[-1][0]
    plain = evaluated(nf4_folder)
    without = plain(torch.tensor([sequence]), output_hidden_states=True).hidden_states[-1][0]
    assert (wanted - without).norm() > 0.001 * without.norm()
    decoder = fast_decoder(apply_fast_path(model, activation_budget=1.0))
    assert decoder is not None
    found = last_hidden(decoder, pack_trees([token_tree([sequence])]), torch.arange(6))
    torch.testing.assert_close(found, wanted.detach(), rtol=0, atol=1e-5)


def test_no_saved_adapter_holds_it_and_nothing_of_it_trains(tmp_path: Path, updated: Any) -> None:
    model = with_lora(updated)
    assert not any("frozen" in name for name, p in model.named_parameters() if p.requires_grad)
    model.save_pretrained(tmp_path / "adapter")
    with safe_open(tmp_path / "adapter" / "adapter_model.safetensors", "pt") as file:
        assert len(file.keys()) == 2 * 2 * len(PROJECTIONS)
        assert all("lora_" in name for name in file.keys())  # noqa: SIM118  (no dict)


def test_without_an_update_nothing_is_added() -> None:
    model = with_lora(llama())
    wanted = gradients(model)
    decoder = causal_lm(apply_fast_path(model)).fast_decoder
    assert {group.frozen.count for layer in decoder.layers for group in layer.groups()} == {0}
    assert worst(gradients(model), wanted) < 1e-5
