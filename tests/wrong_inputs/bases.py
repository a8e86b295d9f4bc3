"""Folders that are given as a base and are none: each is refused by its small files, before anything is loaded."""

import json
from typing import Any

from tests.wrong_inputs.case import Case

PACKAGE = "taigi_lightning"
STAGE = f"{PACKAGE} fit --config configs/cpt.yaml --config configs/tiny.yaml --model.base models"
LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "vocab_size": 512}
EVIL = "open('ran', 'w').close()\n"


def base(name: str, *words: str, settings: Any = None, command: str = STAGE, **files: str | bytes) -> Case:
    """A folder of models/, and what is said of it; `files` writes a dot as two underscores."""
    given: dict[str, str | bytes] = {
        f"models/{name}/{file.replace('__', '.')}": text for file, text in files.items()
    }
    if settings is not None:
        given[f"models/{name}/config.json"] = json.dumps(settings)
    return Case(f"{command}/{name}", (f"models/{name}", *words), 1, given)


def kind(name: str, *words: str, **settings: Any) -> Case:
    """A base whose config.json says what it is."""
    return base(name, *words, settings=settings)


BASES = [
    # other kinds of model
    kind("bert", "a token sees those after it", "Llama", model_type="bert", architectures=["BertForMaskedLM"]),
    kind("roberta", "a token sees those after it", model_type="xlm-roberta", architectures=["XLMRobertaModel"]),
    kind("modernbert", "no causal language model", model_type="modernbert", architectures=["ModernBertForMaskedLM"]),
    kind("t5", "encoder with a decoder", model_type="t5", is_encoder_decoder=True),
    kind("mt5", "no causal language model", model_type="mt5", architectures=["MT5ForConditionalGeneration"]),
    kind("whisper", "encoder with a decoder", model_type="whisper", is_encoder_decoder=True),
    kind("vit", "vit model", model_type="vit", architectures=["ViTForImageClassification"]),
    kind("clip", "clip model", model_type="clip", architectures=["CLIPModel"]),
    kind("reward", "LlamaForSequenceClassification", "language model that it was made from",
         **{**LLAMA, "architectures": ["LlamaForSequenceClassification"]}),
    kind("tagger", "Qwen2ForTokenClassification", **{**LLAMA, "architectures": ["Qwen2ForTokenClassification"]}),
    kind("typo", "'lama'", "transformers does not know", **{**LLAMA, "model_type": "lama"}),
    kind("untyped", "no model_type", hidden_size=64),
    # quantised already
    *(kind(method, f"quantised already ({method})", "16 bits", **LLAMA, quantization_config={"quant_method": method})
      for method in ("fp8", "awq", "gptq", "bitsandbytes", "compressed-tensors")),
    # no model in the transformers format
    base("gguf", "llama-Q4_K_M.gguf", "16-bit model", **{"llama-Q4_K_M__gguf": b"GGUF"}),
    base("adapter", "LoRA adapter", "--model.base models/base --model.adapter models/adapter",
         adapter_config__json='{"base_model_name_or_path": "models/base"}', adapter_model__safetensors=b"0"),
    base("meta", "maker's own format", params__json="{}", consolidated__00__pth=b"0"),
    base("weights", "no config.json", model__safetensors=b"0"),
    Case(f"{STAGE}/file/model.safetensors", ("is a file", "models/file."), 1, {"models/file/model.safetensors": b"0"}),
    base("broken", "config.json is no JSON", config__json="{"),
    base("utf16", "config.json is no JSON", config__json="{}".encode("utf-16")),
    base("list", "no settings", config__json="[]"),
    # tokenizers
    base("mute", "no tokenizer's vocabulary", settings=LLAMA, tokenizer_config__json="{}"),
    base("hollow", "tokenizer.model is empty", settings=LLAMA, tokenizer__model=b""),
    # programs
    base("program", "wants to run a program", "evil.EvilConfig", evil__py=EVIL,
         settings={"model_type": "evil", "auto_map": {"AutoConfig": "evil.EvilConfig"}}),
    base("words", "wants to run a program", "evil.EvilTokenizer", settings=LLAMA, evil__py=EVIL,
         tokenizer_config__json='{"auto_map": {"AutoTokenizer": ["evil.EvilTokenizer", null]}}'),
    # other commands
    base("bert_asked", "a token sees those after it", settings={"model_type": "bert"},
         command=f"{PACKAGE} predict --model.adapter null --model.base models"),
    base("bert_planned", "a token sees those after it", settings={"model_type": "bert", "hidden_size": 64},
         command=f"{PACKAGE} plan --config configs/cpt.yaml --model.base models"),
]  # fmt: skip
