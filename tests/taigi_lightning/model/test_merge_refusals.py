"""What is not merged: an adapter that is more than LoRA, a base that is not its own, a full disk."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from taigi_lightning.errors import InputError
from taigi_lightning.model.adapters import load_adapter
from taigi_lightning.model.lineage import adapter_hash, base_identity, read_lineage, write_lineage
from taigi_lightning.model.merge import merge_adapter
from tests.taigi_lightning.model.saved_adapters import edited, save_adapter, save_base


def refused_at_the_merge(folder: Path, changes: dict[str, Any], named: str) -> tuple[Path, Path]:
    """A base, and an adapter whose settings were changed, for which the merge leaves nothing."""
    base = save_base(folder / "base")
    adapter = edited(save_adapter(base, folder / "adapter"), **changes)
    with pytest.raises(InputError, match=named):
        merge_adapter(base, adapter, folder / "merged")
    assert not (folder / "merged").exists()
    return base, adapter


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"use_dora": True}, "use_dora: True"),
        ({"bias": "all"}, "bias: all"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights: pissa"),
        ({"peft_type": "IA3"}, "peft_type: IA3"),
        ({"a_field_of_the_future": 1}, "a_field_of_the_future: 1"),
    ],
)
def test_an_adapter_that_is_more_than_lora_is_refused(
    tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    refused_at_the_merge(tmp_path, changes, named)


def test_a_tensor_that_is_no_lora_pair_is_named(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base")
    adapter = save_adapter(base, tmp_path / "adapter")
    file = adapter / "adapter_model.safetensors"
    save_file(load_file(file) | {"base_model.model.lm_head.weight": torch.ones(2)}, file)
    with pytest.raises(InputError, match=r"holds base_model\.model\.lm_head\.weight; wanted pairs"):
        merge_adapter(base, adapter, tmp_path / "merged")


@pytest.mark.parametrize(
    ("other", "found"),
    [
        ({"num_hidden_layers": 1}, "has no model.layers.1."),
        ({"intermediate_size": 192}, r"(holds|makes it of) model.layers.0.mlp.\w+.weight as \[\d+, \d+\]"),
    ],
)
def test_a_base_that_does_not_fit_is_refused_with_both_names(
    tmp_path: Path, other: dict[str, int], found: str
) -> None:
    adapter = save_adapter(save_base(tmp_path / "base"), tmp_path / "adapter")
    wrong = save_base(tmp_path / "wrong", **other)
    with pytest.raises(InputError, match=f"LoRA changes model.*base {wrong} {found}"):
        merge_adapter(wrong, adapter, tmp_path / "merged")


def test_an_output_layer_tied_to_the_embeddings_is_refused(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", tie_word_embeddings=True)
    adapter = save_adapter(base, tmp_path / "adapter", target_modules=["q_proj", "lm_head"])
    with pytest.raises(InputError, match=r"changes lm_head\.weight.*tied to the embeddings"):
        merge_adapter(base, adapter, tmp_path / "merged")


def test_pickled_or_damaged_weights_are_refused(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", shard_size="1GB")
    adapter = save_adapter(base, tmp_path / "adapter")
    weights = base / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(InputError, match=r"model\.safetensors is damaged"):
        merge_adapter(base, adapter, tmp_path / "merged")
    weights.rename(base / "pytorch_model.bin")
    with pytest.raises(InputError, match="pickled weights that can run code"):
        merge_adapter(base, adapter, tmp_path / "merged")


def test_a_full_disk_or_the_base_as_output_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = save_base(tmp_path / "base")
    adapter = save_adapter(base, tmp_path / "adapter")
    with pytest.raises(InputError, match="is the base itself"):
        merge_adapter(base, adapter, base)
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(InputError, match="are free"):
        merge_adapter(base, adapter, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_an_adapter_of_another_run_is_refused_and_the_lineage_goes_with_the_model(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base")
    adapter = save_adapter(base, tmp_path / "adapter")
    lineage = write_lineage(adapter, base=base_identity(base, "nf4"))
    merge_adapter(base, adapter, tmp_path / "merged")
    assert read_lineage(tmp_path / "merged") == {**lineage, "adapter": adapter_hash(adapter)}
    retrained = save_base(tmp_path / "retrained", initializer_range=0.2)
    with pytest.raises(InputError, match="its config and weights differ"):
        merge_adapter(retrained, adapter, tmp_path / "other")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"r": 4}, "says rank 4, and adapter_model.safetensors beside it holds .* of rank 8"),
        ({"rank_pattern": {"v_proj": 2}}, "says rank 2"),
        ({"r": "8"}, "says r '8'"),
        ({"lora_alpha": None}, "lora_alpha None"),
    ],
)
def test_settings_of_another_adapter_are_refused_before_it_is_merged_or_loaded(
    tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    base, adapter = refused_at_the_merge(tmp_path, changes, named)
    with pytest.raises(InputError, match=named):
        load_adapter(AutoModelForCausalLM.from_pretrained(base), str(adapter), trainable=False)


@pytest.mark.parametrize("config", [{"intermediate_size": 192}, {"num_key_value_heads": 4}])
def test_an_adapter_for_other_sizes_is_refused_before_it_is_loaded(
    tmp_path: Path, config: dict[str, Any]
) -> None:
    adapter = save_adapter(save_base(tmp_path / "base"), tmp_path / "adapter")
    other = AutoModelForCausalLM.from_pretrained(save_base(tmp_path / "other", **config))
    with pytest.raises(InputError, match=r"does not fit LlamaForCausalLM: it changes .* as \[\d+, \d+\]"):
        load_adapter(other, str(adapter), trainable=False)
