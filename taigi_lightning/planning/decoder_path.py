"""Which path the layers of a base take: the project's own, or transformers'.

The one place that says so from a config, for `plan` before anything is loaded and for the training step alike.
What depends on loaded modules (a DoRA adapter, a weight that trains) the step looks at for itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

# The `model_type`s that `fast_path.families` describes.
FAST_TYPES = (
    "llama", "mistral", "qwen2", "qwen3", "smollm3", "phi3", "gemma", "gemma3_text", "gemma3", "olmo2", "olmo3",
)  # fmt: skip
# Text models whose layers `memory.Shape` counts, but for norms and biases: seven projections, or Phi-3's fused four.
COUNTED_TYPES = (
    *FAST_TYPES, "bitnet", "cohere", "cohere2", "cwm", "diffllama", "ernie4_5", "exaone4", "gemma2", "glm", "glm4",
    "granite", "helium", "hunyuan_v1_dense", "hyperclovax", "ministral", "ministral3", "olmo", "seed_oss", "stablelm",
    "vaultgemma",
)  # fmt: skip
ACTIVATIONS: dict[str, Literal["silu", "gelu_tanh"]] = {"silu": "silu", "gelu_pytorch_tanh": "gelu_tanh"}
# What a config may switch on that the fast path's layers lack.
OTHER_LAYERS = {
    "attention_dropout": "it has attention_dropout, a dropout outside LoRA",
    "resid_pdrop": "it has resid_pdrop, a dropout outside LoRA",
    "embd_pdrop": "it has embd_pdrop, a dropout outside LoRA",
    "attn_logit_softcapping": "it caps attention scores",
    "use_bidirectional_attention": "its attention looks ahead",
}


def off_fast_path(config: Mapping[str, Any]) -> str | None:
    """Why a base's layers run as transformers wrote them, or None if the fast path's do.

    Args:
        config: the content of its config.json, or a loaded config's `to_dict()`. What config.json leaves out is
            its class's default, which keeps no family off.

    >>> off_fast_path({"model_type": "llama", "hidden_act": "silu"}) is None
    True
    >>> off_fast_path({"model_type": "llama", "hidden_act": "gelu"})
    'its activation is gelu, not one of silu, gelu_pytorch_tanh'
    """
    kind = config.get("model_type")
    if kind not in FAST_TYPES:
        return f"its type {kind} is not one of {', '.join(FAST_TYPES)}"
    text = config.get("text_config") or config
    activation = activation_name({"model_type": kind, **text})
    if activation and activation not in ACTIVATIONS:
        return f"its activation is {activation}, not one of {', '.join(ACTIVATIONS)}"
    reason = next((reason for name, reason in OTHER_LAYERS.items() if text.get(name)), None)
    rope = text.get("rope_parameters") or {}
    if (text.get("partial_rotary_factor") or rope.get("partial_rotary_factor") or 1.0) != 1.0:
        return "it rotates a part of each head"
    return reason


def activation_name(settings: Mapping[str, Any]) -> str | None:
    """The MLP's activation as its class reads it: Gemma 3 in `hidden_activation`, all others in `hidden_act`.

    >>> activation_name({"model_type": "gemma", "hidden_act": "gelu", "hidden_activation": "gelu_pytorch_tanh"})
    'gelu'
    """
    gemma3 = str(settings.get("model_type", "")).startswith("gemma3")
    return settings.get("hidden_activation" if gemma3 else "hidden_act")
