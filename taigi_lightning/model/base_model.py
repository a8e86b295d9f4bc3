"""The base model and its tokenizer: found, checked and loaded, in 4 bits or as they are."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from bitsandbytes.nn import Linear4bit
from transformers import (
    AutoConfig,
    AutoTokenizer,
    BitsAndBytesConfig,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.tokenization_auto import get_tokenizer_config
from transformers.utils import GENERATION_CONFIG_NAME

from taigi_lightning.errors import InputError
from taigi_lightning.model.packed_cache import find_entry, origin, write_entry
from taigi_lightning.model.packed_loading import OnHostConfig, loading, of_packed_files, settle
from taigi_lightning.model.safetensors_files import base_folder
from taigi_lightning.model.text_model import text_model_class
from taigi_lightning.model.weight_check import check_weights
from taigi_lightning.planning.base_files import (
    check_base,
    check_precision,
    check_tokenizer_folder,
    check_tokenizer_settings,
)
from taigi_lightning.planning.run_files import TOKEN_INDICES, adapter_config

Quantization = Literal["nf4", "none"]
# By type, linear layers whose weights its code reads instead of calling the layer: 4-bit ones would have no shape.
READ_DIRECTLY = {
    "gemma3n_text": ["correction_coefs", "prediction_coefs"],
    "longcat_flash": ["classifier"],
    "mamba": ["dt_proj"],
}

# bitsandbytes warns at every start that an optional download of faster CPU kernels is absent.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


def load_base_model(
    base: str,
    *,
    quantization: Quantization,
    compute_dtype: torch.dtype,
    device: torch.device,
    from_scratch: bool = False,
    weights_on_host: bool = False,
    shared: bool = False,
    packed_cache: str | None = None,
) -> PreTrainedModel:
    """Load the text model of a base onto `device`, every parameter frozen unless `from_scratch`.

    Of a base that also sees pictures, only the weights of the text model are loaded.

    Args:
        base: a folder in the transformers format, or the name of a model on the Hub.
        quantization: "nf4" packs each Linear of the decoder into 4-bit NormalFloat with double
            quantisation (Dettmers et al. 2023, QLoRA, section 3); embeddings, norms and lm_head keep
            `compute_dtype`. "none" keeps everything in `compute_dtype`.
        compute_dtype: bfloat16 or float16 on a GPU, float32 on a CPU.
        from_scratch: build the architecture in the folder's config.json with random float32 weights.
        weights_on_host: packed weights wait in host memory, one by one, so that the card never holds them together:
            see `packed_loading`.
        shared: this machine's ranks hold one copy of them together; all ranks of the run load at the same time.
        packed_cache: a folder that keeps packed weights for the next time: see `packed_cache`.

    Raises:
        InputError: there is no such model, it is no causal language model, its weights are incomplete, damaged,
            quantised already or no safetensors, or it cannot be reached; or ranks that share weights packed others.
    """
    check_base(base)
    try:
        architecture, config = text_model_class(base)
    except OSError as error:
        raise InputError(_unreachable(base, error)) from error
    if from_scratch:
        scratch: PreTrainedModel = architecture._from_config(config, dtype=torch.float32)
        return scratch.to(device)
    check_precision(base, AutoConfig.from_pretrained(base, trust_remote_code=False).to_dict())
    options: dict[str, Any] = {"dtype": compute_dtype, "device_map": {"": device}, "use_safetensors": True}
    options["key_mapping"] = check_weights(base)
    if quantization == "none":
        loaded = _from_files(base, architecture, config, options)
    else:
        packing = nf4_config(compute_dtype, weights_on_host, READ_DIRECTLY.get(config.model_type))
        with loading(shared=shared and weights_on_host):
            loaded = _packed(base, architecture, config, options, packing, packed_cache)
        if weights_on_host:
            settle(loaded, base)
    _keep_weights_in_evaluation(loaded)
    return loaded


def _packed(
    base: str, architecture: Any, config: Any, options: dict[str, Any], packing: Any, cache: str | None
) -> PreTrainedModel:
    """A base in 4 bits: from a cache if its weights lie there; else packed now, and kept there for the next time."""
    if not cache:
        return _from_files(base, architecture, config, options | {"quantization_config": packing})
    made_from = origin(base, options["dtype"], options["device_map"][""])
    entry = find_entry(Path(cache), made_from)
    if entry is None:
        model = _from_files(base, architecture, config, options | {"quantization_config": packing})
        write_entry(Path(cache), made_from, model)
        return model
    config.quantization_config, generation = of_packed_files(packing), _generation(base)
    options |= {"generation_config": generation, "key_mapping": None}
    with _no_load_report():
        model, found = architecture.from_pretrained(
            str(entry), config=config, output_loading_info=True, **options
        )
    _check_complete(str(entry), architecture, found)
    model.generation_config = generation  # transformers took a copy that no longer tells where it is from
    model.name_or_path = model.config._name_or_path = base
    return model.requires_grad_(False)


def _generation(base: str) -> GenerationConfig:
    """How a base generates, as transformers reads it beside its weights."""
    folder = base_folder(base)
    if (folder / GENERATION_CONFIG_NAME).is_file():
        return GenerationConfig.from_pretrained(str(folder))
    return GenerationConfig.from_pretrained(str(folder), "config.json", _from_model_config=True)


def _from_files(base: str, architecture: Any, config: Any, options: dict[str, Any]) -> PreTrainedModel:
    """A base's text model as transformers reads it, frozen."""
    try:
        # transformers itself chooses what the class can do: sdpa, or eager where there are caps or sinks.
        with _no_load_report():
            model, found = architecture.from_pretrained(
                base, config=config, output_loading_info=True, **options
            )
    except OSError as error:
        raise InputError(_unreachable(base, error)) from error
    _check_complete(base, architecture, found)
    loaded: PreTrainedModel = model.requires_grad_(False)
    return loaded


def _check_complete(base: str, architecture: Any, found: Mapping[str, Any]) -> None:
    """Refuse a model some of whose parameters no file gave, by what transformers found while it loaded."""
    if lacking := sorted(found["missing_keys"]) or [str(key) for key in found["mismatched_keys"]]:
        raise InputError(
            f"{base} holds no weights for {len(lacking)} parameters of {architecture.__name__}, such as {lacking[0]}, "
            "which would stay random. Download or write it again."
        )


@contextmanager
def _no_load_report() -> Iterator[None]:
    """Keep transformers from listing weights that it passes over: a wrapper's tower for pictures, for one."""
    logs = [
        logging.getLogger(f"transformers.{name}")
        for name in ("modeling_utils", "distributed.tensor_parallel")
    ]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)


def _keep_weights_in_evaluation(model: PreTrainedModel) -> None:
    """Keep bitsandbytes from rewriting 4-bit weights on a CPU when the model is first evaluated.

    On processors with bfloat16 units it repacks them then, rounding the block scales to bfloat16: a run that
    validates would train on other weights than one that resumes, and predict with other weights than it
    trained on.
    """
    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def nf4_config(
    compute_dtype: torch.dtype, on_host: bool = False, left: list[str] | None = None
) -> BitsAndBytesConfig:
    """The one 4-bit format of this project: NF4, block size 64, double quantisation; what `left` names stays."""
    return (OnHostConfig if on_host else BitsAndBytesConfig)(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute_dtype,
        llm_int8_skip_modules=[*left, "lm_head"]
        if left
        else None,  # alone they would replace the output layer
    )


def load_tokenizer(base: str, adapter: str | None = None) -> PreTrainedTokenizerBase:
    """Load the tokenizer beside a base model; a pad token apart from EOS is required or borrowed.

    Of an adapter that brings rows for new tokens, it is the tokenizer beside that.

    A pad token equal to EOS would hide EOS from the loss, so a base without one borrows its unknown
    token, which never occurs in encoded text with byte fallback.

    Raises:
        InputError: there is no tokenizer there, or nothing can serve as the pad token.
    """
    check_base(base)
    if adapter is not None and brings_tokenizer(adapter):
        tokenizer = read_tokenizer(adapter)
    else:
        tokenizer = read_tokenizer(base)
        _check_vocabulary(base, tokenizer)
    if tokenizer.eos_token_id is None:
        raise InputError(f"The tokenizer of {base} has no EOS token, so no answer could end. Add one first.")
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        if tokenizer.unk_token is None:
            raise InputError(
                f"The tokenizer of {base} has neither a pad token apart from EOS nor an unknown token to "
                "borrow. Add a pad token to it and save it beside the model."
            )
        tokenizer.pad_token = tokenizer.unk_token
    return tokenizer


def read_tokenizer(folder: str) -> PreTrainedTokenizerBase:
    """A tokenizer as its files have it, in a folder or on the Hub.

    Raises:
        InputError: there is none, or it is a program.
    """
    check_tokenizer_folder(folder)
    try:
        check_tokenizer_settings(folder, get_tokenizer_config(folder))
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except InputError:
        raise
    except Exception as error:  # the reader of tokenizer.json raises errors of many classes
        if not Path(folder).is_dir():
            raise InputError(_unreachable(folder, error)) from error
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise InputError(
            f"The tokenizer in {folder} cannot be read: {reason}. Download or copy it again."
        ) from error
    return tokenizer


def brings_tokenizer(adapter: str) -> bool:
    """Whether an adapter brings rows for new tokens, and the tokenizer that knows them beside it."""
    folder = Path(adapter)
    return bool(adapter_config(folder).get(TOKEN_INDICES)) and (folder / "tokenizer_config.json").is_file()


def _check_vocabulary(base: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer that can give ids for which the model has no embedding.

    Special tokens that nothing here writes, such as Gemma's for pictures in its text-only sizes, may lie beyond.
    """
    rows = AutoConfig.from_pretrained(base, trust_remote_code=False).get_text_config(decoder=True).vocab_size
    vocabulary = tokenizer.get_vocab()
    if (
        max(vocabulary.values(), default=0) < rows
    ):  # numbers may be left out, so that its length does not tell
        return
    ends = (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token, tokenizer.unk_token)
    unwritten = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special} - {
        *ends
    }
    beyond = [token for token, number in vocabulary.items() if number >= rows and token not in unwritten]
    if beyond:
        raise InputError(
            f"The tokenizer of {base} has {len(tokenizer)} tokens, but the model embeddings for {rows}: {beyond[0]!r}, "
            f"number {vocabulary[beyond[0]]}, and {len(beyond) - 1} more have none. Use the tokenizer that the model "
            "came with, or enlarge the model's embeddings once with resize_token_embeddings and save it."
        )


def _unreachable(base: str, error: Exception) -> str:
    """One paragraph for a model that could not be read, from the Hub or from a folder."""
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if Path(base).is_dir():
        return f"The model in {base} cannot be read: {reason} Download or write it again."
    return (
        f"The model {base} could not be loaded: {reason} If the Hub is out of reach, fetch it once with "
        f"`hf download {base}` where there is a network; if it is gated, accept its terms, then `hf auth login`."
    )
