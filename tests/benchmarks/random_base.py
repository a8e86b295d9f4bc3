"""A decoder of any family's shape with random NF4 weights, made layer by layer on the device in seconds.

python tests/benchmarks/random_base.py base4            # writes a 4-bit base of the 13B shape, 7.5 GB
"""

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    Gemma3TextConfig,
    LlamaConfig,
    PretrainedConfig,
    Qwen3Config,
)

from taigi_lightning.planning.memory import Shape

TAIGI_13B = Shape(40, 5120, 13824, 40, 40, 128, 56064)
LLAMA_31_8B = Shape(32, 4096, 14336, 32, 8, 128, 128256)
SPECIAL = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def llama_config(shape: Shape) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_size,
        max_position_embeddings=4096,
        rms_norm_eps=1e-5,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        tie_word_embeddings=shape.tied,
    )


def qwen3_8b(layers: int = 36) -> PretrainedConfig:
    return Qwen3Config(
        vocab_size=151936, hidden_size=4096, intermediate_size=12288, num_hidden_layers=layers,
        num_attention_heads=32, num_key_value_heads=8, head_dim=128, tie_word_embeddings=False, **SPECIAL,
    )  # fmt: skip


def gemma3(hidden: int, intermediate: int, layers: int, heads: int, kv_heads: int, window: int) -> Any:
    return Gemma3TextConfig(
        vocab_size=262208, hidden_size=hidden, intermediate_size=intermediate, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=kv_heads, head_dim=256, sliding_window=window,
        max_position_embeddings=32768, **SPECIAL,
    )  # fmt: skip


# The shapes that are compared: 16 layers, so that a base is made and written in seconds.
FAMILIES: dict[str, Callable[[], PretrainedConfig]] = {
    "Taigi-Llama-2-13B": lambda: llama_config(TAIGI_13B),
    "Llama-3.1-8B": lambda: llama_config(replace(LLAMA_31_8B, layers=16)),
    "Qwen3-8B": lambda: qwen3_8b(16),
    "Gemma-3-12B": lambda: gemma3(3840, 15360, 16, 16, 8, 1024),
    "Gemma-3-270M": lambda: gemma3(640, 2048, 18, 4, 1, 512),
}


def random_base(config: PretrainedConfig, device: str = "cuda") -> Any:
    """A frozen causal language model: random NF4 projections with double quantisation, the rest in bfloat16."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa")
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and name != "lm_head":
            parent = model.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], _random_4_bit(module, device))
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.is_meta:
                value = torch.empty(parameter.shape, dtype=torch.bfloat16, device=device)
                value = value.fill_(1.0) if value.dim() == 1 else value.normal_(std=0.02)
                setattr(module, name, nn.Parameter(value, requires_grad=False))
    model.model.rotary_emb = type(model.model.rotary_emb)(config).to(device)
    if hasattr(model.model.embed_tokens, "embed_scale"):
        model.model.embed_tokens.embed_scale = torch.tensor(config.hidden_size**0.5, device=device)
    if config.tie_word_embeddings:
        model.tie_weights()
    model.is_loaded_in_4bit = True
    return model.requires_grad_(False)


def _random_4_bit(linear: nn.Linear, device: str) -> bnb.nn.Linear4bit:
    options = {"compress_statistics": True, "quant_type": "nf4"}
    packed = bnb.nn.Linear4bit(
        linear.in_features,
        linear.out_features,
        bias=linear.bias is not None,
        compute_dtype=torch.bfloat16,
        device="meta",
        **options,
    )
    weight = torch.empty(linear.weight.shape, dtype=torch.bfloat16, device=device).normal_(std=0.02)
    packed.weight = bnb.nn.Params4bit(weight, requires_grad=False, module=packed, **options).to(device)
    if linear.bias is not None:
        packed.bias = nn.Parameter(torch.zeros(linear.out_features, dtype=torch.bfloat16, device=device))
    return packed


def write_base(model: Any, folder: Path) -> None:
    """Write a model as transformers reads a 4-bit one, with a toy tokenizer."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.contiguous() for name, value in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        del tensors["lm_head.weight"]
    save_file(tensors, str(folder / "model.safetensors"), metadata={"format": "pt"})
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    ).to_dict()
    config = model.config.to_dict() | {"architectures": [type(model).__name__], "dtype": "bfloat16"}
    config["quantization_config"] = quantization | {"quant_method": "bitsandbytes"}
    (folder / "config.json").write_text(json.dumps(config, default=str))
    write_toy_tokenizer(folder)


def write_toy_tokenizer(folder: Path) -> None:
    """A tokenizer of bytes and a few pairs of them."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    toy = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    toy.pre_tokenizer, toy.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    special = ["<unk>", "<s>", "</s>"]
    toy.train_from_iterator(
        ["hello world"] * 10,
        trainers.BpeTrainer(
            vocab_size=1000, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
        ),
    )
    PreTrainedTokenizerFast(
        tokenizer_object=toy, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<unk>"
    ).save_pretrained(folder)


def with_other_tokenizer(base: Path, tokenizer: Path, folder: Path) -> None:
    """The same base in another folder, its weights as hard links, with another tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in base.glob("*.safetensors"):
        (folder / file.name).unlink(missing_ok=True)
        (folder / file.name).hardlink_to(file)
    shutil.copy(base / "config.json", folder)
    for file in tokenizer.iterdir():
        if file.is_file() and ("token" in file.name):
            shutil.copy(file, folder)


if __name__ == "__main__":
    write_base(random_base(llama_config(TAIGI_13B)), Path(sys.argv[1]))
