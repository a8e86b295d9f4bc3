"""A base whose files and config.json are not of one model is refused by its headers, before any weight is read."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from taigi_lightning.errors import InputError
from taigi_lightning.model.merge_places import find_places
from taigi_lightning.model.weight_check import check_weights
from tests.taigi_lightning.architectures.small_bases import gemma3_wrapper, save_base, small_config

Change = Callable[[Path], object]
Q = "model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(small_config("llama"), tmp_path_factory.mktemp("good"))


def settings(**changes: Any) -> Change:
    """Another config.json."""

    def change(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return change


def tensors(make: Callable[[dict[str, torch.Tensor]], object]) -> Change:
    """Other weights, in one file."""

    def change(folder: Path) -> None:
        found = {
            name: value for file in folder.glob("*.safetensors") for name, value in load_file(file).items()
        }
        make(found)
        for file in folder.glob("model*"):
            file.unlink()
        save_file(found, folder / "model.safetensors", {"format": "pt"})

    return change


def shard(content: bytes) -> Change:
    """Something else in the place of a shard."""
    return lambda folder: (folder / "model-00002-of-00003.safetensors").write_bytes(content)


def without(*patterns: str, add: str | None = None) -> Change:
    """Fewer files, and perhaps another one."""

    def change(folder: Path) -> None:
        for file in [file for pattern in patterns for file in folder.glob(pattern)]:
            file.unlink()
        if add is not None:
            (folder / add).write_bytes(b"0")

    return change


def as_gptq(found: dict[str, torch.Tensor]) -> None:
    found[f"{Q}.qweight"] = found.pop(f"{Q}.weight").to(torch.int32)


def tied_head(folder: Path, rows: int = 1280) -> None:
    """A tied model of which only the output layer was written, in one file; the index of several stays."""
    index = (folder / "model.safetensors.index.json").read_text()
    head = torch.ones(rows, 64)
    tensors(lambda found: (found.pop("model.embed_tokens.weight"), found.update({"lm_head.weight": head})))(
        folder
    )
    (folder / "model.safetensors.index.json").write_text(index)
    settings(tie_word_embeddings=True)(folder)


WRONG: dict[str, tuple[Change, str]] = {
    "a shard is not there": (without("model-00002*"), "lacks model-00002-of-00003"),
    "an empty one": (shard(b""), "00002-of-00003.safetensors is damaged"),
    "a page instead": (shard(b"<!DOCTYPE html>" * 9), "is damaged"),
    "a pointer instead": (shard(b"version https://git-lfs.github.com/spec/v1\nsize 9\n"), "git lfs pull"),
    "no index": (without("*.index.json"), "holds model-00001-of-00003.safetensors, but neither"),
    "GGUF beside": (without("model*", add="x-Q4.gguf"), "holds x-Q4.gguf alone: GGUF"),
    "ONNX beside": (without("model*", add="model.onnx"), "only model.onnx, weights in a form"),
    "pickles": (without("model*", add="pytorch_model.bin"), "pickled weights"),
    "more layers": (settings(num_hidden_layers=3), r"no weights for 9 parameters .*layers\.2\."),
    "fewer layers": (settings(num_hidden_layers=1), r"layers\.1\.\S+ and 8 more for which the LlamaForCausalLM"),
    "another width": (settings(hidden_size=128), r"as \[1280, 64\], and its config.json makes it \[1280, 128\]"),
    "another vocabulary": (settings(vocab_size=1400), r"makes it \[1400, 64\]"),
    "another family": (settings(model_type="qwen3"), "no weights for 4 parameters of Qwen3ForCausalLM"),
    "a bias that is passed over": (
        tensors(lambda found: found.update({f"{Q}.bias": torch.zeros(64)})), "q_proj.bias and 0 more"
    ),
    "sizes that exclude each other": (settings(num_attention_heads=5, head_dim=None), "not a multiple"),
    "a word for a number": (settings(hidden_size="64"), "cannot be used: .* expected int"),
    "a dtype that is none": (settings(dtype="fp8"), "cannot be used: .* 'fp8'"),
    "packed, unsaid": (tensors(as_gptq), "q_proj.qweight: its weights are quantised already"),
    "an adapter among its files": (
        lambda folder: (folder / "adapter_config.json").write_text("{}"), "a LoRA adapter among the files of a model"
    ),
    "weights of another name": (settings(transformers_weights="x.safetensors"), "lie in x.safetensors"),
    "a tied head of another size": (lambda folder: tied_head(folder, 1288), r"lm_head.weight as \[1288, 64\]"),
    "8 bits, unsaid": (
        tensors(lambda found: found.update({f"{Q}.weight": found[f"{Q}.weight"].to(torch.float8_e4m3fn)})),
        "as F8_E4M3",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_files_and_settings_of_different_models_are_refused(name: str, good: Path, tmp_path: Path) -> None:
    change, words = WRONG[name]
    folder = tmp_path / "base"
    shutil.copytree(good, folder)
    check_weights(folder)
    change(folder)
    with pytest.raises(InputError, match=words):
        check_weights(folder)


RIGHT: dict[str, Change] = {
    "a head that its config calls tied": settings(tie_word_embeddings=True),
    "the head alone of a tied pair": tied_head,
    "layers for the tokens after the next": settings(num_hidden_layers=1, num_nextn_predict_layers=1),
    "buffers of earlier versions": tensors(
        lambda found: found.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)})
    ),
    "the maker's own file beside": lambda folder: (folder / "consolidated.safetensors").write_bytes(b""),
}


@pytest.mark.parametrize("name", RIGHT)
def test_what_is_whole_passes(name: str, good: Path, tmp_path: Path) -> None:
    folder = tmp_path / "base"
    shutil.copytree(good, folder)
    RIGHT[name](folder)
    check_weights(folder)


def test_an_embedding_lies_where_the_head_tied_to_it_does(good: Path, tmp_path: Path) -> None:
    folder, name = tmp_path / "base", "model.embed_tokens.weight"
    shutil.copytree(good, folder)
    assert find_places(folder, {name: (1280, 64)})[name].entry.name == name
    tied_head(folder)
    assert find_places(folder, {name: (1280, 64)})[name].entry.name == "lm_head.weight"


@pytest.mark.parametrize("config", [gemma3_wrapper(), small_config("gpt2"), small_config("qwen3_moe")])
def test_other_forms_pass(config: Any, tmp_path: Path) -> None:
    check_weights(save_base(config, tmp_path))
