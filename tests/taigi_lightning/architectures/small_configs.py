"""The classes' configurations at sizes that a test can afford."""

from typing import Any

from transformers.models.auto.configuration_auto import CONFIG_MAPPING, CONFIG_MAPPING_NAMES
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

VOCABULARY = 1280  # of the embedded base's tokenizer
LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers")
# Sizes by the names that the classes' configurations have for them; each takes those that it knows.
SIZES: dict[str, Any] = {
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input"), VOCABULARY),
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "dim", "emb_dim", "embedding_size", "lru_width"), 64),
    **dict.fromkeys(("word_embed_proj_dim", "mamba_d_ssm", "embed_dim"), 64),
    **dict.fromkeys(("intermediate_size", "n_inner", "ffn_dim", "decoder_ffn_dim", "encoder_ffn_dim"), 96),
    **dict.fromkeys(("ffn_hidden_size", "dense_ffn_hidden_size"), 96),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "shared_intermediate_size"), 48),
    **dict.fromkeys((*LAYERS, "depth", "num_encoder_layers", "num_decoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads"), 4),
    **dict.fromkeys(("decoder_attention_heads", "encoder_attention_heads", "mamba_n_heads"), 4),
    **dict.fromkeys(("num_encoder_attention_heads", "num_decoder_attention_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads", "linear_num_key_heads", "num_experts_per_tok"), 2),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "linear_num_value_heads"), 4),
    **dict.fromkeys(("head_dim", "global_head_dim", "linear_key_head_dim", "linear_value_head_dim"), 16),
    **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim", "q_lora_rank", "kv_lora_rank"), 16),
    **dict.fromkeys(("rotary_dim", "o_lora_rank", "index_head_dim"), 16),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx"), 2048),
    **dict.fromkeys(("state_size", "mamba_d_state", "hidden_size_per_layer_input", "sliding_window"), 8),
    **dict.fromkeys(("encoder_layers", "first_k_dense_replace", "n_group", "topk_group", "bos_token_id"), 1),
    **{"time_step_rank": 4, "mamba_dt_rank": 4, "mamba_d_head": 32, "mamba_expand": 2},
    **{"image_size": 28, "patch_size": 14, "num_channels": 3, "index_n_heads": 4, "o_groups": 2},
    **{"eos_token_id": 2, "pad_token_id": 3, "use_cache": False},
}  # fmt: skip
ROPE = {"rope_type": "default", "rope_theta": 10000.0}
# By type, beside sizes.
CHANGES: dict[str, dict[str, Any]] = {
    # Caps and scales that matter at these sizes.
    "gemma2": {"final_logit_softcapping": 2.0, "attn_logit_softcapping": 5.0},
    "gemma4_text": {"final_logit_softcapping": 8.0},
    "granite": {"logits_scaling": 8.0},
    # Beside those, what a class needs.
    "cohere_compass_text": {
        "rope_parameters": {"full_attention": ROPE, "sliding_attention": ROPE}, "logit_scale": 0.25,
    },
    "deepseek_v2": {"num_experts_per_tok": 2},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "falcon_h1": {"mamba_d_ssm": 128},
    "gemma3n_text": {
        "num_kv_shared_layers": 0, "layer_types": ["sliding_attention", "full_attention"],
        "activation_sparsity_pattern": [0.5, 0.0], "laurel_rank": 8,
    },
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 8},
    "hunyuan_v1_dense": {"head_dim": 16},
    "hunyuan_v1_moe": {"head_dim": 16},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "mamba2": {"num_heads": 4, "head_dim": 32, "n_groups": 1},
    "ministral": {"head_dim": 16},
    "nemotron": {"num_key_value_heads": 2},
    "prophetnet": {"is_encoder_decoder": False, "is_decoder": True, "add_cross_attention": False},
    "reformer": {"is_decoder": True, "attn_layers": ["local"], "axial_pos_embds": False},
    "qwen4_exp_text": {
        "indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 16, "indexer_budget": 64,
        "indexer_compress_ratio": 4, "ngram_vocab_size_base": 64,
    },
    "zamba2": {"layers_block_type": ["mamba", "hybrid"], "use_mamba_kernels": False},
    "zaya": {"num_experts_per_tok": 1},
}  # fmt: skip
# Types of which no small model is made here, and why.
UNTRIED = {
    **dict.fromkeys(("fast_vlm", "gemma3n", "perception_lm"), "its vision tower needs timm and pillow"),
    **dict.fromkeys(("gemma4_assistant", "gemma4_unified_assistant"), "it drafts tokens for another model"),
    **dict.fromkeys(
        ("blt", "janus", "vibevoice", "vibevoice_asr"), "its configuration fixes sizes of its parts"
    ),
    **dict.fromkeys(
        ("dots3_note", "fun_asr_nano", "inkling2"), "its configuration wants its parts' sizes to agree"
    ),
    **dict.fromkeys(
        ("nemo_speechlm", "nemotron_h_omni"), "its configuration wants its parts' sizes to agree"
    ),
    **dict.fromkeys(("dbrx", "zamba"), "transformers itself fails to build it"),
    **dict.fromkeys(("colpali", "jev", "shieldgemma2"), "it decides or retrieves, and continues no text"),
    "deepseek_v4": "its sizes are bound to each other in more ways than its configuration checks",
    "emu3": "its tower needs a vocabulary of pictures",
}


def small_config(model_type: str, **changes: Any) -> Any:
    """The configuration of a model type at sizes that a test can afford; each kind of layer is there once or more."""
    return _small(CONFIG_MAPPING[model_type], CHANGES.get(model_type, {}) | changes)


def _small(kind: Any, changes: dict[str, Any]) -> Any:
    default = kind()
    known = default.to_dict()
    sizes = {
        name: size
        for name, size in SIZES.items()
        if known.get(name) is not None or name in getattr(default, "attribute_map", {})
    }
    sizes |= {name: 0.0 for name, value in known.items() if "drop" in name and isinstance(value, float)}
    if known.get("layer_types") is not None:
        kinds = list(dict.fromkeys(known["layer_types"]))
        sizes["layer_types"] = (kinds * 2)[: max(2, len(kinds))]
        sizes["num_hidden_layers"] = len(sizes["layer_types"])
    if "kv_lora_rank" in known or "rotary_dim" in known:
        sizes["num_key_value_heads"] = 4
    for name in kind.sub_configs:
        inner = getattr(default, name, None)
        if inner is not None:
            more = CHANGES.get(inner.model_type, {}) if hasattr(inner, "model_type") else {}
            sizes[name] = _small(type(inner), more)
    return kind(**sizes | changes)


def text_model_types() -> list[str]:
    """Every model type of transformers with a causal language model of its own or of the text model in it."""
    return [kind for kind in sorted(CONFIG_MAPPING_NAMES) if kind in UNTRIED or _has_text_model(kind)]


def _has_text_model(model_type: str) -> bool:
    kind = CONFIG_MAPPING[model_type]
    if kind in MODEL_FOR_CAUSAL_LM_MAPPING:
        return True
    try:
        text = small_config(model_type).get_text_config(decoder=True)
    except Exception:  # there is no model of it without more settings, or it has two text models
        return False
    return type(text) in MODEL_FOR_CAUSAL_LM_MAPPING
