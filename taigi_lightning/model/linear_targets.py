"""Which linear projections of a text model get LoRA, and which of its weights get none: asked of the model itself.

Names differ: Phi-3 fuses q, k and v into `qkv_proj`, GPT-2 calls its own layer `Conv1D`, mixtures of experts stack
their experts in one tensor that is no layer at all.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners import tuners_utils
from peft.utils import transformers_weight_conversion
from torch import nn
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightRenaming, rename_source_key
from transformers.pytorch_utils import Conv1D

from taigi_lightning.kernels.host_memory import at_hand, held_in_place
from taigi_lightning.model.text_model import without_numbers

LINEAR = (nn.Linear, Conv1D)


def linear_projections(model: nn.Module) -> dict[str, nn.Module]:
    """The linear layers of a model by name, the output layer left out; 4-bit ones are among them."""
    head = model.get_output_embeddings() if isinstance(model, PreTrainedModel) else None
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, LINEAR) and module is not head
    }


def used_projections(model: PreTrainedModel) -> dict[str, nn.Module]:
    """Those of `linear_projections` from whose product in a pass over text a gradient comes, in any layer or expert.

    A router that returns more than a product is none of them. A layer whose weight is read directly (Mamba's
    `dt_proj`), be it in training alone (Gemma 3n's `correction_coefs`), that text never reaches (one that looks at
    pictures), or whose product only chooses among tokens (DeepSeek's `indexer`), would train nothing. Experts of one
    mixture stand at one place: a short text does not reach them all.
    """
    was = model.training
    # Weights that wait on the host come for one call each: a backward pass would hold them all.
    resident = not any(held_in_place(module) for module in model.modules())
    try:
        places = _places(model.train(), with_gradient=resident) & _places(model.eval(), with_gradient=False)
    finally:
        model.train(was)
    return {
        name: layer for name, layer in linear_projections(model).items() if without_numbers(name) in places
    }


def _places(model: PreTrainedModel, with_gradient: bool) -> set[str]:
    """Places of the linear layers that a short text calls for a product; `with_gradient`: that changes the logits."""
    products: list[tuple[str, torch.Tensor]] = []

    def hook(name: str) -> Callable[..., torch.Tensor | None]:
        def note(_module: nn.Module, _inputs: Any, output: Any) -> torch.Tensor | None:
            if not isinstance(output, torch.Tensor):
                return None
            product = (
                output.detach().requires_grad_() if with_gradient and not output.requires_grad else output
            )
            products.append((without_numbers(name), product))
            return product.clone() if with_gradient else None  # a clone, which the model may change in place

        return note

    handles = [layer.register_forward_hook(hook(name)) for name, layer in linear_projections(model).items()]
    try:
        device = model.get_input_embeddings().weight.device
        with torch.set_grad_enabled(with_gradient), at_hand(model, device):
            logits = model(input_ids=torch.arange(4, 20, device=device)[None], use_cache=False).logits
        if not with_gradient or not products:
            return {place for place, _ in products}
        wanted = [product for _, product in products]
        with torch.enable_grad():  # also where a caller computes without gradients
            found = torch.autograd.grad(logits.float().square().mean(), wanted, allow_unused=True)
    finally:
        for handle in handles:
            handle.remove()
    return {place for (place, _), gradient in zip(products, found, strict=True) if gradient is not None}


def default_targets(model: PreTrainedModel) -> list[str]:
    """Names of all linear projections that LoRA can adapt, as short as they can be without naming others.

    Left out are those that PEFT refuses (Mamba's `out_proj`), those whose names it would move to stacked experts, and
    those that it would not find again in a saved adapter, as transformers renames them in what it reads.
    """
    everything = {name: module for name, module in model.named_modules() if name}
    used = used_projections(model).keys() - _renamed(model, linear_projections(model))
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
            found[without_numbers(module if leaf == "weight" else f"{module}.{leaf}")] = None
    return list(found)


def _tables(model: Any) -> Iterable[nn.Parameter]:
    """Embeddings, the output layer's among them."""
    head = model.get_output_embeddings()
    yield from head.parameters() if head is not None else ()
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            yield from module.parameters()


def _renamed(model: PreTrainedModel, names: Collection[str]) -> set[str]:
    """Modules whose weights transformers would look for under other names than they have in the model."""
    transforms = get_model_conversion_mapping(model)
    renamings = [transform for transform in transforms if isinstance(transform, WeightRenaming)]
    shapes = {f"{name}.weight": () for name in names}
    return {
        name
        for name in names
        if rename_source_key(f"{name}.weight", renamings, [], model.base_model_prefix, shapes)[0]
        not in shapes
    }


def _peft_takes(model: PreTrainedModel, name: str) -> bool:
    """Whether PEFT adapts the layers of this name themselves."""
    config = LoraConfig(target_modules=[name])
    try:
        transformers_weight_conversion.convert_peft_config_for_transformers(config, model, None)
        tuners_utils._check_lora_target_modules_mamba(config, model, name)
    except ValueError:
        return False
    return not config.target_parameters
