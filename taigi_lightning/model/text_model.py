"""The text model of a base: its class in transformers, and how its weights are called in the base's files.

Bases that also see pictures wrap it (`Gemma3ForConditionalGeneration`). Only the text model is loaded and trained; the
files keep everything, under the wrapper's names.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taigi_lightning.errors import InputError
from taigi_lightning.model.safetensors_files import TensorEntry, read_header, weight_files
from taigi_lightning.planning.base_files import LOOKING_AHEAD, refuse_code

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FLOATS = ("BF16", "F16", "F32")
SUCH_AS = "Use a base that continues text, such as Llama, Mistral, Qwen or Gemma."
# Types that compute otherwise than layer after layer, token after token.
OTHERWISE = {
    "prophetnet": "predicts several tokens at once",
    "reformer": "computes its gradients in its own way",
}


@dataclass(frozen=True)
class StoredWeight:
    """One weight of the text model as the base's files hold it."""

    entry: TensorEntry
    transposed: bool  # [in, out], as in GPT-2, where a Linear has [out, in]
    rebuilt: bool  # transformers makes it out of several stored tensors, or cuts it out of one


def text_model_class(base: str | Path) -> tuple[type[PreTrainedModel], Any]:
    """The class of a base's text model, and its configuration.

    Raises:
        InputError: transformers has no causal language model for it, or that does more than continue text.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    whole = _configuration(base)
    config = whole.get_text_config(decoder=True)
    if config is not whole and getattr(whole, "tie_word_embeddings", False):
        config.tie_word_embeddings = True  # a wrapper's own setting counts, whatever its text model's says
    named = f"{base} is a {whole.model_type} model"
    if getattr(whole, "is_encoder_decoder", False):
        raise InputError(
            f"{named}, an encoder with a decoder; what is trained here only continues text. {SUCH_AS}"
        )
    if reason := _unlike(config):
        raise InputError(f"{named}: {reason}. {SUCH_AS}")
    for kind in (type(config), type(whole)):
        found = MODEL_FOR_CAUSAL_LM_MAPPING.get(kind, None)
        if found is not None and found.config_class is type(config):
            return found, config
    raise InputError(
        f"{named}, of whose text model transformers has no causal language model ({type(config).__name__}). {SUCH_AS}"
    )


def _unlike(config: Any) -> str | None:
    """Why a text model cannot learn to continue text here, as far as its configuration says so."""
    kind = config.model_type
    if kind in OTHERWISE:
        return f"it {OTHERWISE[kind]}"
    setting = LOOKING_AHEAD.get(kind)
    ahead = kind in LOOKING_AHEAD and not (setting and getattr(config, setting))
    if ahead or getattr(config, "use_bidirectional_attention", None) is True:
        return "a token sees those after it, so it cannot learn to predict them"
    return None


def _configuration(base: str | Path) -> Any:
    from transformers import AutoConfig, PreTrainedConfig

    try:
        return AutoConfig.from_pretrained(str(base), trust_remote_code=False)
    except OSError:
        raise
    except Exception as error:  # what is wrong with one of its values, the classes say in their own ways
        refuse_code(str(base), PreTrainedConfig.get_config_dict(str(base))[0])
        reason = f"{' '.join(str(error).split())[:200].rstrip('.')}."
        raise InputError(f"The configuration of {base} cannot be used: {reason} Use another base.") from error


def is_wrapped(base: str | Path) -> bool:
    """Whether a base's text model is only a part of it."""
    whole = _configuration(base)
    return whole.get_text_config(decoder=True) is not whole


def skeleton(base: str | Path) -> PreTrainedModel:
    """The text model of a base without its weights: names and shapes alone.

    Raises:
        InputError: transformers has no causal language model for it, or cannot build it.
    """
    import torch

    architecture, config = text_model_class(base)
    try:
        with torch.device("meta"):
            return architecture(config)
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise InputError(
            f"transformers cannot build the text model of {base}: {reason} Use another base."
        ) from error


def wrapper_prefixes(base: str | Path) -> tuple[str, str] | None:
    """What the layers' names begin with in a base's text model, and in the model that plain transformers loads.

    None where these are the same, or where that other model cannot be built here.

    >>> wrapper_prefixes("models/tiny-taigi")
    """
    import torch

    if not is_wrapped(base):
        return None
    inner, whole = skeleton(base), _configuration(base)
    try:
        with torch.device("meta"):
            outer = _whole_class(whole)._from_config(whole)
    except Exception:  # it may want a library for pictures that is not installed
        return None
    if type(outer) is type(inner):
        return None
    decoder: Any = inner.get_decoder()
    kind = type(getattr(inner, "model", inner) if decoder is inner else decoder)
    paths = [
        next((name for name, module in model.named_modules() if type(module) is kind), None)
        for model in (inner, outer)
    ]
    return (f"{paths[0]}.", f"{paths[1]}.") if all(paths) else None


def whole_class(base: str | Path) -> Any:
    """The class that plain transformers loads a base as, or None where it has none."""
    try:
        return _whole_class(_configuration(base))
    except StopIteration:
        return None


def _whole_class(config: Any) -> Any:
    """The class of a wrapper's whole: that of its files by their own word, else what transformers has for it."""
    import transformers
    from transformers import AutoModelForCausalLM, AutoModelForMultimodalLM

    named = getattr(transformers, (config.architectures or ["none"])[0], None)
    if named is not None:
        return named
    automatic = (auto._model_mapping for auto in (AutoModelForMultimodalLM, AutoModelForCausalLM))
    return next(mapping[type(config)] for mapping in automatic if type(config) in mapping)


def stored_entries(folder: Path) -> dict[str, TensorEntry]:
    """Every tensor of a model's files by its name there."""
    return {name: entry for shard in weight_files(folder) for name, entry in read_header(shard).items()}


def key_mapping(model: PreTrainedModel, entries: Mapping[str, TensorEntry]) -> dict[str, str] | None:
    """What transformers must be told to find a text model's weights under a wrapper's names; None if nothing.

    Args:
        model: the text model; its weights need not be there.
        entries: the tensors of the files.
    """
    names = [name for name, parameter in model.named_parameters() if parameter.dim() > 1]
    found = stored_weights_of(model, entries, None)
    if all(name in found for name in names):
        return None
    inner = model.base_model_prefix + "."
    prefix = common_prefix(entries, [name.removeprefix(inner) for name in names if name.startswith(inner)])
    if prefix is None:
        return None
    mapping = {f"^{re.escape(prefix)}": inner}
    for name in names:
        if not name.startswith(inner):  # the output layer
            mapping |= {f"^{re.escape(key)}$": name for key in entries if key.endswith(f".{name}")}
    return mapping


def common_prefix(found: Iterable[str], wanted: Collection[str]) -> str | None:
    """The prefix under which most of the wanted names are found; None if none of them is found.

    >>> common_prefix(["text.layers.0.q", "text.layers.1.q", "vision.layers.0.q"], ["layers.0.q", "layers.1.q"])
    'text.'
    """
    names = set(found)
    if not wanted:
        return None
    first = next(iter(wanted))
    prefixes = [
        name.removesuffix(first) for name in sorted(names) if name == first or name.endswith(f".{first}")
    ]
    return max(prefixes, key=lambda prefix: sum(prefix + name in names for name in wanted), default=None)


def stored_weights_of(
    model: PreTrainedModel, entries: Mapping[str, TensorEntry], mapping: Mapping[str, str] | None
) -> dict[str, StoredWeight]:
    """Each weight of a text model as its files hold it, found as transformers finds it; what they lack is left out.

    Args:
        mapping: from `key_mapping`.
    """
    from transformers.pytorch_utils import Conv1D

    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    modules = dict(model.named_modules())
    found = {}
    for key, (name, joined) in names_in_memory(model, entries, mapping).items():
        if name in shapes:
            transposed = isinstance(modules[name.rpartition(".")[0]], Conv1D)
            found[name] = StoredWeight(entries[key], transposed, joined or entries[key].shape != shapes[name])
    for name, source in model.all_tied_weights_keys.items():
        if name in found:  # one tensor of two names, of which the files may have either
            found.setdefault(source, found[name])
    return found


def names_in_memory(
    model: PreTrainedModel, entries: Mapping[str, TensorEntry], mapping: Mapping[str, str] | None
) -> dict[str, tuple[str, bool]]:
    """What transformers calls each stored tensor in a text model, and whether it makes it of several, or cuts it.

    Args:
        mapping: from `key_mapping`.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    transforms = get_model_conversion_mapping(model, key_mapping=None if mapping is None else dict(mapping))
    renamings = [transform for transform in transforms if isinstance(transform, WeightRenaming)]
    converters = [transform for transform in transforms if isinstance(transform, WeightConverter)]
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    found = {}
    for key in entries:
        name, pattern = rename_source_key(key, renamings, converters, model.base_model_prefix, shapes)
        found[key] = (name, pattern is not None)
    return found


def without_numbers(name: str) -> str:
    """A module's name without the numbers of layers and experts.

    >>> without_numbers("model.layers.17.mlp.experts.3.w1")
    'model.layers.*.mlp.experts.*.w1'
    """
    return re.sub(r"(?<=\.)\d+(?=\.|$)", "*", name)
