"""PEFT attaches, saves and reads back; nothing of the base trains."""

from pathlib import Path

import pytest
import torch

from taigi_lightning.errors import InputError
from taigi_lightning.model.adapters import (
    LoraSettings,
    adapter_settings,
    attach_adapter,
    load_adapter,
    save_adapter,
)
from taigi_lightning.model.base_model import load_base_model
from taigi_lightning.planning.memory import PROJECTIONS


def four_bit(folder: Path) -> torch.nn.Module:
    return load_base_model(
        str(folder), quantization="nf4", compute_dtype=torch.float32, device=torch.device("cpu")
    )


def test_all_seven_projections_get_a_float32_adapter_and_only_it_trains(tiny_llama_dir: Path) -> None:
    model = attach_adapter(four_bit(tiny_llama_dir), LoraSettings(r=4, lora_alpha=8))
    trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    assert {n.split(".")[-4] for n, _ in trained} == set(PROJECTIONS)
    assert all("lora_" in n and p.dtype is torch.float32 for n, p in trained)


def test_an_adapter_survives_saving_and_loading(tiny_llama_dir: Path, tmp_path: Path) -> None:
    model = attach_adapter(four_bit(tiny_llama_dir), LoraSettings(r=4, lora_alpha=12, lora_dropout=0.1))
    for p in model.parameters():
        if p.requires_grad:
            torch.nn.init.normal_(p, std=0.02)
    save_adapter(model, tmp_path / "adapter", str(tiny_llama_dir))
    ids = torch.tensor([[1, 5, 9, 14]])
    again = load_adapter(four_bit(tiny_llama_dir), str(tmp_path / "adapter"), trainable=False)
    with torch.no_grad():
        assert torch.equal(model.eval()(ids).logits, again.eval()(ids).logits)
    assert not any(p.requires_grad for p in again.parameters())
    assert adapter_settings(str(tmp_path / "adapter")) == LoraSettings(4, 12, 0.1, sorted(PROJECTIONS))


def test_saving_replaces_an_earlier_adapter_as_a_whole(tiny_llama_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "stale.bin").write_text("old")
    save_adapter(attach_adapter(four_bit(tiny_llama_dir), LoraSettings(r=2)), folder, str(tiny_llama_dir))
    assert sorted(f.name for f in folder.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert not (tmp_path / "adapter.partial").exists()


def test_target_modules_that_do_not_exist_are_named(tiny_llama_dir: Path) -> None:
    with pytest.raises(InputError, match="query_key_value"):
        attach_adapter(four_bit(tiny_llama_dir), LoraSettings(target_modules=["query_key_value"]))


def test_a_folder_that_is_no_adapter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"adapter_config\.json"):
        adapter_settings(str(tmp_path))
