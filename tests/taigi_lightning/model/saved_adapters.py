"""A small random base and a LoRA adapter for it, saved as their libraries save them."""

import json
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from taigi_lightning.planning.memory import PROJECTIONS


def save_base(
    folder: Path, *, shard_size: str = "100KB", dtype: torch.dtype = torch.bfloat16, **config: Any
) -> Path:
    """Save a random Llama with grouped queries and, unless told otherwise, several shards."""
    torch.manual_seed(9527)
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 256}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(**{**shape, **heads, "initializer_range": 0.1, **config})).to(dtype)
    model.save_pretrained(folder, max_shard_size=shard_size)
    (folder / "tokenizer.json").write_text('{"kept": "byte for byte"}')
    return folder


def save_adapter(base: Path, folder: Path, **config: Any) -> Path:
    """Save an adapter with both matrices random: PEFT starts B at zero, which would test nothing."""
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    lora = {"r": 8, "lora_alpha": 16, "target_modules": PROJECTIONS, "init_lora_weights": False, **config}
    get_peft_model(model, LoraConfig(**lora)).save_pretrained(folder, save_embedding_layers=False)
    return folder


def edited(folder: Path, **changes: Any) -> Path:
    """Change fields of an adapter's config."""
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder
