"""A merge gives a model that plain transformers loads and that computes what base + adapter compute."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from taigi_lightning.merging import Onto, merge_adapter

PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
IDS = torch.arange(1, 33)[None]  # (B=1, T=32)


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


@torch.no_grad()
def logits(model: torch.nn.Module) -> torch.Tensor:
    return model(IDS).logits  # type: ignore[no-any-return]


def reference_logits(base: Path, adapter: Path) -> torch.Tensor:
    """Base + adapter in float32 through PEFT alone."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    return logits(PeftModel.from_pretrained(model, adapter))


def merged_logits(folder: Path) -> torch.Tensor:
    return logits(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32))


@pytest.mark.parametrize(
    "lora",
    [
        {},
        {"use_rslora": True},
        {
            "rank_pattern": {"q_proj": 4, r"layers\.1\.mlp\.up_proj": 2},
            "alpha_pattern": {"0.mlp.down_proj": 64},
        },
        {"target_modules": ["q_proj", "lm_head"]},
    ],
    ids=["plain", "rslora", "patterns", "lm_head"],
)
def test_merged_model_computes_what_base_and_adapter_compute(tmp_path: Path, lora: dict[str, Any]) -> None:
    base = save_base(tmp_path / "base", dtype=torch.float32)
    adapter = save_adapter(base, tmp_path / "adapter", **lora)
    report = merge_adapter(base, adapter, tmp_path / "merged")
    assert report.weights == len(load_file(adapter / "adapter_model.safetensors")) // 2
    wanted = reference_logits(base, adapter)
    assert (wanted - merged_logits(base)).abs().max() > 0.1
    torch.testing.assert_close(merged_logits(tmp_path / "merged"), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("onto", ["original", "dequantized"])
def test_a_gpu_gives_the_same_model(tmp_path: Path, onto: Onto) -> None:
    base = save_base(tmp_path / "base")
    adapter = save_adapter(base, tmp_path / "adapter")
    for device in ("cpu", "cuda"):
        report = merge_adapter(base, adapter, tmp_path / device, onto=onto, device=device)
        print(report)
    torch.testing.assert_close(
        merged_logits(tmp_path / "cuda"), merged_logits(tmp_path / "cpu"), rtol=0.02, atol=0.05
    )
