"""The text model of a base that also sees pictures, whatever its weights are called on disk."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from taigi_lightning.errors import InputError
from taigi_lightning.model.adapters import LoraSettings, attach_adapter, load_adapter, save_adapter
from taigi_lightning.model.base_model import load_base_model, load_tokenizer
from taigi_lightning.model.merge_places import adapted_shapes, find_places, quantised_weights
from tests.taigi_lightning.architectures.small_bases import (
    gemma3_wrapper,
    save_base,
    small_config,
    small_model,
)

IDS = torch.randint(4, 1000, (1, 30), generator=torch.Generator().manual_seed(2))


def load(folder: Path, quantization: Any = "none") -> Any:
    return load_base_model(
        str(folder), quantization=quantization, compute_dtype=torch.float32, device=torch.device("cpu")
    )


@pytest.fixture(scope="module")
def wrapper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(gemma3_wrapper(), tmp_path_factory.mktemp("wrapper"))


def renamed(wrapper: Path, folder: Path, change: Any) -> Path:
    """The same base with other names on disk, in one file."""
    folder.mkdir()
    tensors = {change(n): t for file in wrapper.glob("*.safetensors") for n, t in load_file(file).items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_bytes((wrapper / "config.json").read_bytes())
    return folder


def as_in_memory(name: str) -> str:
    if name.startswith("language_model.model."):
        return name.replace("language_model.model.", "model.language_model.", 1)
    return f"model.{name}" if name.startswith(("vision", "multi")) else name


def as_of_a_stranger(name: str) -> str:
    return name.replace("language_model.model.", "backbone.text.", 1)


@pytest.mark.parametrize("change", [str, as_in_memory, as_of_a_stranger])
def test_the_text_model_alone_is_loaded_by_any_names(wrapper: Path, tmp_path: Path, change: Any) -> None:
    model = load(renamed(wrapper, tmp_path / "base", change))
    assert not any("vision" in name for name, _ in model.named_modules())
    whole: Any = AutoModelForCausalLM.from_pretrained(wrapper, dtype=torch.float32).eval()
    with torch.no_grad():
        torch.testing.assert_close(model(IDS).logits, whole(IDS).logits, rtol=1e-5, atol=1e-5)


def test_the_adapter_fits_the_model_of_plain_transformers_and_the_text_model(
    wrapper: Path, tmp_path: Path
) -> None:
    model = attach_adapter(load(wrapper), LoraSettings(r=2))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    places = find_places(wrapper, adapted_shapes(model.get_base_model()))
    assert len(places) == 14
    assert quantised_weights(wrapper) == {place.entry.name for place in places.values()}
    save_adapter(model, tmp_path / "adapter", str(wrapper))
    whole: Any = AutoModelForCausalLM.from_pretrained(wrapper, dtype=torch.float32)
    plain = PeftModel.from_pretrained(whole, tmp_path / "adapter").eval()
    assert not any("vision" in name for name, _ in plain.named_parameters() if "lora_" in name)
    again = load_adapter(load(wrapper), str(tmp_path / "adapter"), trainable=False).eval()
    with torch.no_grad():
        wanted = model.eval()(IDS).logits
        torch.testing.assert_close(plain(IDS).logits, wanted, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(again(IDS).logits, wanted, rtol=1e-5, atol=1e-5)


def test_an_adapter_of_another_shape_of_model_is_refused(wrapper: Path, tmp_path: Path) -> None:
    save_adapter(attach_adapter(load(wrapper), LoraSettings(r=2)), tmp_path / "adapter", str(wrapper))
    fewer = small_model(small_config("gemma3_text", num_hidden_layers=1, layer_types=["full_attention"]))
    with pytest.raises(InputError, match="does not fit Gemma3ForCausalLM"):
        load_adapter(fewer, str(tmp_path / "adapter"), trainable=False)


def test_weights_that_are_missing_are_named_and_not_drawn_at_random(wrapper: Path, tmp_path: Path) -> None:
    folder = renamed(wrapper, tmp_path / "base", str)
    tensors = load_file(folder / "model.safetensors")
    del tensors["language_model.model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"no weights for 1 parameters .*layers\.1\.mlp\.up_proj"):
        load(folder)


@pytest.mark.parametrize("model_type", ["t5", "vit", "bart"])
def test_what_does_not_continue_text_is_refused_before_its_weights_are_read(
    tmp_path: Path, model_type: str
) -> None:
    CONFIG_MAPPING[model_type]().save_pretrained(tmp_path)
    with pytest.raises(InputError, match=f"is a {model_type} model"):
        load(tmp_path)


def test_weights_quantised_already_are_refused_for_four_bits(tmp_path: Path) -> None:
    config = small_config("llama").to_dict() | {"quantization_config": {"quant_method": "fp8"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"quantised already \(fp8\)"):
        load(tmp_path, "nf4")


def test_stacked_experts_have_no_place_in_a_base_that_stores_them_one_by_one(tmp_path: Path) -> None:
    base = save_base(small_config("qwen3_moe"), tmp_path / "base")
    with pytest.raises(InputError, match=r"base .* makes it of model.layers.0.mlp.experts"):
        find_places(base, {"model.layers.0.mlp.experts.down_proj": (64, 48)})
    find_places(base, {"model.layers.0.self_attn.q_proj.weight": (64, 64)})


def test_a_tokenizer_that_is_longer_than_the_embedding_is_refused(tmp_path: Path) -> None:
    save_base(small_config("llama", vocab_size=1220), tmp_path / "base")
    with pytest.raises(InputError, match="has 1225 tokens, but the model embeddings for 1220"):
        load_tokenizer(str(tmp_path / "base"))


def as_json(base: Path, change: Any) -> Path:
    """Let a base's tokenizer be read from tokenizer.json alone, changed."""
    load_tokenizer(str(base)).save_pretrained(base)
    (base / "tokenizer.model").unlink()
    (base / "tokenizer.json").write_text(
        json.dumps(change(json.loads((base / "tokenizer.json").read_text())))
    )
    return base


def test_a_token_whose_number_lies_beyond_the_embedding_is_refused(tmp_path: Path) -> None:
    """In a vocabulary that leaves numbers out, and so is no longer than the embedding."""

    def apart(settings: dict[str, Any]) -> dict[str, Any]:
        settings["model"]["vocab"][list(settings["model"]["vocab"])[-1]] = 4000
        return settings

    base = as_json(save_base(small_config("llama"), tmp_path / "base"), apart)
    with pytest.raises(
        InputError, match=r"has 1225 tokens, but the model embeddings for 1280: .*, number 4000,"
    ):
        load_tokenizer(str(base))


@pytest.mark.parametrize("content", [[], {"version": "1.0"}, {"model": {"type": "of tomorrow"}}])
def test_a_tokenizer_in_another_format_is_refused_in_a_sentence(content: Any, tmp_path: Path) -> None:
    base = as_json(save_base(small_config("llama"), tmp_path / "base"), lambda _: content)
    with pytest.raises(InputError, match=r"The tokenizer in .* cannot be read: .* copy it again\."):
        load_tokenizer(str(base))


def test_special_tokens_that_nothing_writes_may_lie_beyond(tmp_path: Path) -> None:
    base = save_base(small_config("llama", vocab_size=1225), tmp_path / "base")
    tokenizer = load_tokenizer(str(base))
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    tokenizer.save_pretrained(base)
    assert len(load_tokenizer(str(base))) == 1226
    tokenizer.add_tokens(["台灣"])
    tokenizer.save_pretrained(base)
    with pytest.raises(InputError, match="'台灣'"):
        load_tokenizer(str(base))
