"""The real loading code on files shaped like the real base's."""

import json
import shutil
from pathlib import Path

import bitsandbytes as bnb
import pytest
import torch

from taigi_lightning.errors import InputError
from taigi_lightning.model.base_model import load_base_model, load_tokenizer
from taigi_lightning.planning.base_files import check_base

CPU = torch.device("cpu")


def test_four_bit_weights_with_double_quantisation_and_nothing_that_trains(tiny_llama_dir: Path) -> None:
    model = load_base_model(str(tiny_llama_dir), quantization="nf4", compute_dtype=torch.float32, device=CPU)
    layer = model.model.layers[0].self_attn.q_proj
    assert isinstance(layer, bnb.nn.Linear4bit)
    assert layer.weight.dtype is torch.uint8
    assert layer.weight.quant_state.quant_type == "nf4"
    assert layer.weight.quant_state.nested
    assert model.lm_head.weight.dtype is torch.float32
    assert not any(p.requires_grad for p in model.parameters())


def test_evaluating_changes_no_weight(tiny_llama_dir: Path) -> None:
    model = load_base_model(str(tiny_llama_dir), quantization="nf4", compute_dtype=torch.float32, device=CPU)
    layer = model.model.layers[0].mlp.up_proj
    before = layer.weight.data.clone(), layer.weight.quant_state.absmax.clone()
    with torch.no_grad():
        model.eval()(torch.tensor([[1, 5, 9, 14]]))
    assert torch.equal(layer.weight.data, before[0])
    assert torch.equal(layer.weight.quant_state.absmax, before[1])


def test_from_scratch_is_random_float32_and_trains(tiny_llama_dir: Path) -> None:
    torch.manual_seed(1)
    model = load_base_model(
        str(tiny_llama_dir), quantization="none", compute_dtype=torch.float32, device=CPU, from_scratch=True
    )
    stored = load_base_model(
        str(tiny_llama_dir), quantization="none", compute_dtype=torch.float32, device=CPU
    )
    assert all(p.requires_grad and p.dtype is torch.float32 for p in model.parameters())
    assert not torch.equal(model.lm_head.weight, stored.lm_head.weight)


def test_a_sentencepiece_model_alone_gives_the_tokenizer(tiny_llama_dir: Path) -> None:
    assert not (tiny_llama_dir / "tokenizer.json").exists()
    tokenizer = load_tokenizer(str(tiny_llama_dir))
    assert tokenizer("阿明")["input_ids"][0] == tokenizer.bos_token_id
    assert tokenizer.pad_token_id not in (None, tokenizer.eos_token_id)


def test_a_tokenizer_whose_pad_is_eos_borrows_the_unknown_token(
    tiny_tokenizer_dir: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "base"
    shutil.copytree(tiny_tokenizer_dir, folder)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        settings = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(settings | {"pad_token": "</s>"}))
    tokenizer = load_tokenizer(str(folder))
    assert tokenizer.pad_token == "<unk>"


@pytest.mark.parametrize("base", ["models/cpt_modle", "./nowhere", "/no/such/folder", "one-word"])
def test_a_path_that_is_no_model_is_refused_at_once(base: str) -> None:
    with pytest.raises(InputError, match="no model folder"):
        check_base(base)


def test_a_folder_without_a_config_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no config\.json"):
        check_base(str(tmp_path))


def test_a_hub_name_is_left_to_the_hub() -> None:
    check_base("Bohanlu/Taigi-Llama-2-13B")


def test_a_model_with_pickled_weights_alone_is_refused(tiny_llama_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pickled"
    folder.mkdir()
    shutil.copyfile(tiny_llama_dir / "config.json", folder / "config.json")
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="pickled weights that can run code"):
        load_base_model(str(folder), quantization="none", compute_dtype=torch.float32, device=CPU)


@pytest.mark.parametrize("fault", ["cut off", "too long"])
def test_a_shard_of_another_size_is_named(tiny_llama_dir: Path, tmp_path: Path, fault: str) -> None:
    folder = tmp_path / "base"
    shutil.copytree(tiny_llama_dir, folder)
    shard = sorted(folder.glob("model-*.safetensors"))[1]
    content = shard.read_bytes()
    shard.write_bytes(content[:-100] if fault == "cut off" else content + bytes(100))
    with pytest.raises(InputError, match=rf"{shard.name} is damaged"):
        load_base_model(str(folder), quantization="nf4", compute_dtype=torch.float32, device=CPU)
