"""A small random base of every architecture whose layers are written out, each with what sets it apart switched on."""

from collections.abc import Callable
from typing import Any

import torch
import transformers as hf
from torch import nn

from taigi_lightning.planning.memory import PROJECTIONS
from tests.taigi_lightning.fast_path.small_decoders import SIZES

# As Llama 3's, with the bounds between kept and stretched wavelengths inside what so small a head has.
ROPE = {
    "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
TYPES = ["sliding_attention", "full_attention"]
HEAD: dict[str, Any] = {"head_dim": 24}  # not hidden_size / heads
GEMMA3: dict[str, Any] = {
    **SIZES, **HEAD, "num_hidden_layers": 4, "sliding_window": 3, "query_pre_attn_scalar": 20,
    "layer_types": TYPES * 2,
}  # fmt: skip


def _gemma3_with_vision() -> Any:
    vision = {
        "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "image_size": 8, "patch_size": 4,
    }  # fmt: skip
    config = hf.Gemma3Config(text_config=GEMMA3, vision_config=vision, mm_tokens_per_image=4)
    return hf.Gemma3ForConditionalGeneration(config)


BASES: dict[str, Callable[[], Any]] = {
    "Llama 2": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**SIZES)),
    "Llama 3": lambda: hf.LlamaForCausalLM(
        hf.LlamaConfig(**SIZES, tie_word_embeddings=True, rope_parameters=ROPE, max_position_embeddings=256)
    ),
    "Mistral": lambda: hf.MistralForCausalLM(hf.MistralConfig(**SIZES, **HEAD, sliding_window=3)),
    "Qwen 2": lambda: hf.Qwen2ForCausalLM(
        hf.Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=3, max_window_layers=1)
    ),
    "Qwen 3": lambda: hf.Qwen3ForCausalLM(hf.Qwen3Config(**SIZES, **HEAD)),
    "Gemma 1": lambda: hf.GemmaForCausalLM(hf.GemmaConfig(**SIZES, **HEAD)),
    "Gemma 3": lambda: hf.Gemma3ForCausalLM(hf.Gemma3TextConfig(**GEMMA3)),
    "Gemma 3 with vision": _gemma3_with_vision,
    "Phi 3": lambda: hf.Phi3ForCausalLM(hf.Phi3Config(**SIZES, sliding_window=3)),
    "OLMo 2": lambda: hf.Olmo2ForCausalLM(hf.Olmo2Config(**SIZES)),
    "OLMo 3": lambda: hf.Olmo3ForCausalLM(hf.Olmo3Config(**SIZES, sliding_window=3, layer_types=TYPES)),
    "SmolLM 3": lambda: hf.SmolLM3ForCausalLM(hf.SmolLM3Config(**SIZES, no_rope_layers=[1, 0])),
}


def family_base(name: str) -> Any:
    """The frozen base, its norms' weights and its biases random too."""
    torch.manual_seed(0)
    base = BASES[name]().requires_grad_(False)
    for place, parameter in base.named_parameters():
        if "norm" in place:
            nn.init.normal_(parameter, mean=float(parameter.mean()), std=0.3)
        elif place.endswith("bias"):
            nn.init.normal_(parameter, std=0.1)
    return base


def lora_targets(name: str) -> Any:
    """What LoRA adapts: every projection of the text model."""
    if name == "Phi 3":
        return ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]
    return PROJECTIONS if "vision" not in name else rf".*language_model.*\.({'|'.join(PROJECTIONS)})"
