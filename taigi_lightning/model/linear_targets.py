"""Which linear projections of a text model get LoRA, and which of its weights get none: asked of the model itself.

Names differ: Phi-3 fuses q, k and v into `qkv_proj`, GPT-2 calls its own layer `Conv1D`, mixtures of experts stack
their experts in one tensor that is no layer at all.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners import tuners_utils
from peft.utils import transformers_weight_conversion
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from taigi_lightning.kernels.host_memory import at_hand


def linear_projections(model: nn.Module) -> dict[str, nn.Module]:
    """The linear layers of a model by name, the output layer left out; 4-bit ones are among them."""
    head = model.get_output_embeddings() if isinstance(model, PreTrainedModel) else None
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not head
    }


@torch.no_grad()
def used_projections(model: PreTrainedModel) -> dict[str, nn.Module]:
    """Those of `linear_projections` that a forward pass over text calls for a product, in any layer or expert.

    A router that returns more than a product is none of them. A layer whose weight is read directly (Mamba's
    `dt_proj`), or that text never reaches (one that looks at pictures), would train nothing. Experts of one mixture
    stand at one place: a short text does not reach them all.
    """
    layers = linear_projections(model)
    called: set[str] = set()

    def hook(name: str) -> Callable[..., None]:
        def note(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(output, torch.Tensor):
                called.add(_place(name))

        return note

    handles = [layer.register_forward_hook(hook(name)) for name, layer in layers.items()]
    try:
        device = model.get_input_embeddings().weight.device
        with at_hand(model, device):
            model(input_ids=torch.arange(4, 20, device=device)[None], use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return {name: layer for name, layer in layers.items() if _place(name) in called}


def default_targets(model: PreTrainedModel) -> list[str]:
    """Names of all linear projections that LoRA can adapt, as short as they can be without naming others.

    Left out are those that PEFT refuses (Mamba's `out_proj`) and those whose names it would move to stacked experts.
    """
    everything = {name: module for name, module in model.named_modules() if name}
    used = used_projections(model).keys()
    by_last: dict[str, list[str]] = defaultdict(list)
    for name in used:
        by_last[name.rpartition(".")[2]].append(name)
    targets: list[str] = []
    for last, names in sorted(by_last.items()):
        if not _peft_takes(model, last):
            continue
        others = any(name.rpartition(".")[2] == last and name not in used for name in everything)
        targets += sorted(names) if others else [last]
    return targets


def without_lora(model: nn.Module, adapted: Collection[str]) -> list[str]:
    """Weights of a text model that stay as they are: matrices that are neither adapted nor embeddings, one a place.

    Args:
        model: the base, whose modules PEFT may have wrapped.
        adapted: names of the modules with LoRA.
    """
    tables = {id(p) for p in _tables(model)}
    found: dict[str, None] = {}
    for name, parameter in model.named_parameters():
        module, _, leaf = name.replace(".base_layer.", ".").rpartition(".")
        if module in adapted or "lora_" in name or ".frozen_update." in name or id(parameter) in tables:
            continue
        packed = parameter.dtype is torch.uint8  # a 4-bit matrix has lost its shape
        if parameter.dim() > 1 and (packed or min(parameter.shape) > 1):
            found[_place(module if leaf == "weight" else f"{module}.{leaf}")] = None
    return list(found)


def _tables(model: Any) -> Iterable[nn.Parameter]:
    """Embeddings, the output layer's among them."""
    head = model.get_output_embeddings()
    yield from head.parameters() if head is not None else ()
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            yield from module.parameters()


def _place(name: str) -> str:
    """A module's name without the numbers of layers and experts.

    >>> _place("model.layers.17.mlp.experts.3.w1")
    'model.layers.*.mlp.experts.*.w1'
    """
    return re.sub(r"(?<=\.)\d+(?=\.|$)", "*", name)


def _peft_takes(model: PreTrainedModel, name: str) -> bool:
    """Whether PEFT adapts the layers of this name themselves."""
    config = LoraConfig(target_modules=[name])
    try:
        transformers_weight_conversion.convert_peft_config_for_transformers(config, model, None)
        tuners_utils._check_lora_target_modules_mamba(config, model, name)
    except ValueError:
        return False
    return not config.target_parameters
