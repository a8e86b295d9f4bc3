"""Small random models of transformers' own classes, and the tokenizer of the embedded base beside them."""

import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from tests.taigi_lightning.architectures.small_configs import VOCABULARY, small_config

TINY = Path(__file__).parents[3] / "models" / "tiny-taigi"
# Where the class that the hubs hold for a configuration is found: a wrapper's own before its text model's.
MAPPINGS = (
    modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    modeling_auto.MODEL_FOR_MULTIMODAL_LM_MAPPING,
    modeling_auto.MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING,
    modeling_auto.MODEL_FOR_PRETRAINING_MAPPING,
    modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING,
    modeling_auto.MODEL_MAPPING,
)


def whole_class(config: Any) -> Any:
    """The class whose weights the hubs hold for a configuration; None where transformers has none."""
    wrapped = type(config.get_text_config(decoder=True)) is not type(config)
    mappings = MAPPINGS if wrapped else (modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING, *MAPPINGS)
    found = next((mapping[type(config)] for mapping in mappings if type(config) in mapping), None)
    return found[0] if isinstance(found, tuple) else found


def small_model(config: Any) -> PreTrainedModel:
    """A random model whose layers matter: their matrices are larger than the classes themselves would draw them."""
    torch.manual_seed(0)
    model: PreTrainedModel = whole_class(config)._from_config(config)
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
