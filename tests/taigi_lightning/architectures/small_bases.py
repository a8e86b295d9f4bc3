"""Small random models of transformers' own classes, and the tokenizer of the embedded base beside them."""

import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

TINY = Path(__file__).parents[3] / "models" / "tiny-taigi"
VOCABULARY = 1280  # of the embedded base's tokenizer
LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers")
# Sizes by the names that the classes' configurations have for them; each takes those that it knows.
SIZES: dict[str, Any] = {
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input"), VOCABULARY),
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "dim", "emb_dim", "embedding_size", "lru_width"), 64),
    **dict.fromkeys(("word_embed_proj_dim", "mamba_d_ssm"), 64),
    **dict.fromkeys(("intermediate_size", "n_inner", "ffn_dim", "decoder_ffn_dim", "encoder_ffn_dim"), 96),
    **dict.fromkeys(("ffn_hidden_size", "dense_ffn_hidden_size"), 96),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "shared_intermediate_size"), 48),
    **dict.fromkeys(LAYERS, 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads"), 4),
    **dict.fromkeys(("decoder_attention_heads", "encoder_attention_heads", "mamba_n_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads", "linear_num_key_heads", "num_experts_per_tok"), 2),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "linear_num_value_heads"), 4),
    **dict.fromkeys(("head_dim", "global_head_dim", "linear_key_head_dim", "linear_value_head_dim"), 16),
    **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim", "q_lora_rank", "kv_lora_rank"), 16),
    **dict.fromkeys(("rotary_dim",), 16),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx"), 2048),
    **dict.fromkeys(("state_size", "mamba_d_state", "hidden_size_per_layer_input", "sliding_window"), 8),
    **dict.fromkeys(("encoder_layers", "first_k_dense_replace", "n_group", "topk_group", "bos_token_id"), 1),
    **{"time_step_rank": 4, "mamba_dt_rank": 4, "mamba_d_head": 32, "mamba_expand": 2},
    **{"eos_token_id": 2, "pad_token_id": 3, "use_cache": False},
}  # fmt: skip


def small_config(model_type: str, **changes: Any) -> Any:
    """The configuration of a model type at sizes that a test can afford; each kind of layer is there once or more."""
    default = CONFIG_MAPPING[model_type]()
    known = default.to_dict()
    sizes = {
        name: size
        for name, size in SIZES.items()
        if known.get(name) is not None or name in getattr(default, "attribute_map", {})
    }
    if known.get("layer_types") is not None:
        kinds = list(dict.fromkeys(known["layer_types"]))
        sizes["layer_types"] = (kinds * 2)[: max(2, len(kinds))]
        sizes["num_hidden_layers"] = len(sizes["layer_types"])
    if "kv_lora_rank" in known or "rotary_dim" in known:
        sizes["num_key_value_heads"] = 4
    return CONFIG_MAPPING[model_type](**sizes | changes)


def small_model(config: Any) -> PreTrainedModel:
    """A random model whose layers matter: their matrices are larger than the classes themselves would draw them."""
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.2)
    return model.eval().requires_grad_(False)


def save_base(config: Any, folder: Path) -> Path:
    """A base's folder: several shards in 32 bits, which merge without rounding, and the embedded base's tokenizer."""
    small_model(config).save_pretrained(folder, max_shard_size="400KB")
    for file in TINY.glob("*token*"):
        shutil.copyfile(file, folder / file.name)
    return folder


def gemma3_wrapper(**changes: Any) -> Any:
    """A small `Gemma3ForConditionalGeneration`, with its tower for pictures."""
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = small_config("gemma3_text", sliding_window=16, head_dim=16, **changes).to_dict()
    return CONFIG_MAPPING["gemma3"](
        text_config=text,
        vision_config={**vision, "image_size": 28, "patch_size": 14},
        mm_tokens_per_image=4,
        image_token_index=VOCABULARY - 1,
        boi_token_index=VOCABULARY - 2,
        eoi_token_index=VOCABULARY - 3,
    )


LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def taught_families() -> dict[str, Any]:
    """What Taigi is taught to: configurations by name."""
    return {
        "llama2": small_config("llama", num_key_value_heads=4),
        "llama3": small_config("llama", rope_parameters=LLAMA3_ROPE, tie_word_embeddings=True),
        "mistral": small_config("mistral", sliding_window=16),
        "qwen2": small_config("qwen2"),
        "qwen3": small_config("qwen3"),
        "gemma3_text": small_config("gemma3_text", sliding_window=16),
        "gemma3": gemma3_wrapper(),
    }
