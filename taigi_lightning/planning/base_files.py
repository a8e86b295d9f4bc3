"""What a base is by its small files: what cannot be used is refused before PyTorch is imported or a weight is read."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from taigi_lightning.errors import InputError

# What a tokenizer's vocabulary lies in, in the formats that transformers reads.
VOCABULARIES = (
    "tokenizer.json",
    "*.model",
    "vocab.json",
    "vocab.txt",
    "*.tiktoken",
    "tekken.json",
    "vocab.bpe",
)
TEXT_BASES = "Use a base that continues text, such as Llama, Mistral, Qwen or Gemma."
# Types whose tokens see those after them, unless this setting of theirs is true; None: always.
LOOKING_AHEAD = {
    **dict.fromkeys(
        ("bert", "bert-generation", "big_bird", "camembert", "data2vec-text", "electra"), "is_decoder"
    ),
    **dict.fromkeys(("ernie", "megatron-bert", "rembert", "roberta", "roberta-prelayernorm"), "is_decoder"),
    **dict.fromkeys(("roc_bert", "roformer", "xlm-roberta", "xlm-roberta-xl", "xmod"), "is_decoder"),
    **{"xlm": "causal", "cpmant": None, "xlnet": None},
}
HUB_NAME = re.compile(r"\w[\w.\-]*/\w[\w.\-]*", re.ASCII)
WRITING_HEADS = ("ForCausalLM", "LMHeadModel", "WithLMHead", "ForConditionalGeneration", "Model")
TEXT_PARTS = ("text_config", "llm_config", "language_config", "decoder", "thinker_config")


def is_hub_name(base: str) -> bool:
    r"""Whether a base that is no folder here may be one of the Hub.

    >>> is_hub_name("Bohanlu/Taigi-Llama-2-13B")
    True
    >>> any(map(is_hub_name, ("models/cpt_model", "C:/base", "models\\cpt", "./base", "/base", "a/b/c", "//host/base")))
    False
    """
    return bool(HUB_NAME.fullmatch(base)) and not base.startswith("models/")


def check_base(base: str, *, plus: bool = False) -> None:
    """Refuse a local folder that is no language model which can be trained; a name on the Hub passes.

    Args:
        base: the folder or name.
        plus: it was written as BASE or BASE+ADAPTER, not after --model.base.

    Raises:
        InputError: there is no such folder, no config.json in it, or what that says cannot be used.
    """
    path = Path(base)
    if (path / "config.json").is_file():
        check_settings(base, read_settings(path / "config.json"))
        check_loaded_files(base, path)
    elif path.exists():
        raise InputError(f"{base} {_what_instead(path, plus)}")
    elif not is_hub_name(base):
        raise InputError(
            f"There is no model folder {base}. Give {'' if plus else '--model.base '}a folder with config.json, or a "
            "Hub name like Bohanlu/Taigi-Llama-2-13B; models/cpt_model appears when the CPT stage has ended."
        )


def read_settings(file: Path) -> dict[str, Any]:
    """A JSON file of a model.

    Raises:
        InputError: it is no JSON object.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{file} is no JSON: {error}. Download or write the model again.") from error
    if not isinstance(found, dict):
        raise InputError(f"{file} holds no settings with names. Download or write the model again.")
    return found


def check_loaded_files(base: str | Path, folder: Path) -> None:
    """Refuse a model's folder of which transformers loads more, or other files, than the model's own.

    Args:
        base: how the user called it.
        folder: where its files are.

    Raises:
        InputError: a LoRA adapter lies among them, or config.json names a file of weights.
    """
    if (folder / "adapter_config.json").is_file():
        raise InputError(
            f"{base} holds a LoRA adapter among the files of a model (adapter_config.json), and transformers would add "
            "it to that model unasked. Move adapter_config.json and adapter_model.safetensors into a folder of their "
            "own; if the adapter is to be used, give that folder as well."
        )
    if named := read_settings(folder / "config.json").get("transformers_weights"):
        raise InputError(
            f"config.json of {base} says that its weights lie in {named} (transformers_weights), which is not read "
            "here. Save the model once with save_pretrained(folder) and give that folder."
        )


def _what_instead(path: Path, plus: bool) -> str:
    """What lies at a path where a model should be, and what to give."""
    if path.is_file():
        return f"is a file; give the folder of a model in the transformers format, with config.json: {path.parent}."
    names = sorted(file.name for file in path.iterdir())
    if "adapter_config.json" in names:
        base = read_settings(path / "adapter_config.json").get("base_model_name_or_path") or "ITS_BASE"
        both = f"{base}+{path}" if plus else f"--model.base {base} --model.adapter {path}"
        return f"is a LoRA adapter, not a base. Give both: {both}."
    if gguf := next((name for name in names if name.endswith(".gguf")), None):
        return (
            f"holds {gguf} and no config.json: GGUF is what other programs run a model from, and is not trained. Give "
            "the 16-bit model that it was made of, in the transformers format."
        )
    if {"params.json", "consolidated.safetensors"} & {*names} or any(
        n.startswith("consolidated") for n in names
    ):
        return (
            "holds a model in its maker's own format and no config.json. Give the same model in the transformers "
            "format; on the Hub its name often ends in -hf."
        )
    if not names:
        return "is an empty folder: it holds no config.json. If a stage should write it, let that stage finish first."
    return (
        "exists but holds no config.json, so it is not a model in the transformers format. "
        "If a stage should have written it, let that stage finish first."
    )


def check_settings(base: str, settings: Mapping[str, Any]) -> None:
    """Refuse a model of which it is plain from its config.json that it cannot be taught to continue text.

    Args:
        base: how the user called it.
        settings: its config.json.

    Raises:
        InputError: its classes are in its own folder; or it is none that transformers knows as a causal language
            model, has another head, or is quantised.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL

    kind = settings.get("model_type")
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING_NAMES:
        refuse_code(base, settings)
        named = f"names the model type {kind!r}" if kind else "names no model_type"
        raise InputError(f"config.json of {base} {named}, which transformers does not know. {TEXT_BASES}")
    named = f"{base} is a {kind} model"
    if settings.get("is_encoder_decoder"):
        raise InputError(
            f"{named}, an encoder with a decoder; what is trained here only continues text. {TEXT_BASES}"
        )
    if kind in LOOKING_AHEAD and not settings.get(LOOKING_AHEAD[kind] or ""):
        raise InputError(
            f"{named}, in which a token sees those after it, so it cannot learn to predict them. {TEXT_BASES}"
        )
    if kind not in CAUSAL and not any(part in settings for part in TEXT_PARTS):
        raise InputError(f"{named}, of which transformers has no causal language model. {TEXT_BASES}")
    heads = [str(head) for head in settings.get("architectures") or ()]
    if heads and not any(head.endswith(WRITING_HEADS) or head in CAUSAL.values() for head in heads):
        raise InputError(
            f"{base} is a {heads[0]}, which judges texts and does not write them: its output layer is another. Give "
            "the language model that it was made from."
        )
    check_precision(base, settings)


def check_precision(base: str, settings: Mapping[str, Any]) -> None:
    """Refuse weights that are quantised already.

    Raises:
        InputError: config.json says so.
    """
    parts = [settings, *(settings[part] for part in TEXT_PARTS if isinstance(settings.get(part), dict))]
    found = next((part["quantization_config"] for part in parts if part.get("quantization_config")), None)
    if found is None:
        return
    method = (
        found.get("quant_method") if isinstance(found, dict) else None
    ) or "in a way that it does not name"
    raise InputError(
        f"The weights of {base} are quantised already ({method}), so they cannot be quantised to 4 bits again, and "
        "nothing could be merged into them. Give the base in 16 bits."
    )


def refuse_code(base: str, settings: Mapping[str, Any]) -> None:
    """Refuse a model or a tokenizer whose class is a program in its own folder; none is ever run.

    Args:
        base: how the user called it.
        settings: its config.json or tokenizer_config.json.

    Raises:
        InputError: `auto_map` is among the settings.
    """
    found = settings.get("auto_map")
    if not found:
        return
    values = found.values() if isinstance(found, dict) else [found]
    names = [
        str(name) for value in values for name in (value if isinstance(value, list) else [value]) if name
    ]
    raise InputError(
        f"{base} wants to run a program that comes with it ({names[0] if names else 'auto_map'}), which is never done "
        "here: it could do anything on this machine. Give a base whose classes are part of transformers, as Llama's, "
        "Mistral's, Qwen's and Gemma's are."
    )


def check_tokenizer_folder(base: str) -> None:
    """Refuse a local folder whose tokenizer is missing, has no vocabulary, or is a program; a Hub name passes.

    Raises:
        InputError: one of these.
    """
    path = Path(base)
    if not path.is_dir():
        return
    settings = path / "tokenizer_config.json"
    if settings.is_file():
        check_tokenizer_settings(base, read_settings(settings))
    files = [file for pattern in VOCABULARIES for file in path.glob(pattern) if file.is_file()]
    if not files:
        raise InputError(
            f"{base} holds no tokenizer's vocabulary, such as tokenizer.json or tokenizer.model. Copy the tokenizer "
            "that the model came with into it."
        )
    if empty := [file for file in files if not file.stat().st_size]:
        raise InputError(f"{empty[0]} is empty. Download or copy the tokenizer again.")


def check_tokenizer_settings(base: str, settings: Mapping[str, Any]) -> None:
    """Refuse a tokenizer whose class is a program in its own folder.

    transformers asks on standard input whether to run it, or takes another class than was meant.

    Raises:
        InputError: `auto_map` names one.
    """
    found = settings.get("auto_map")
    code = found.get("AutoTokenizer") if isinstance(found, dict) else found
    if code:
        refuse_code(f"The tokenizer of {base}", {"auto_map": code})
