"""A module's state where a frozen base is no part of it: what trains is saved, loaded and thawed, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.nn.modules.module import _IncompatibleKeys

from taigi_lightning.errors import InputError


def trained_state(
    module: pl.LightningModule,
    trains: Collection[str],
    waiting: Mapping[str, Tensor],
    destination: dict[str, Tensor] | None = None,
    prefix: str = "",
    keep_vars: bool = False,
) -> dict[str, Tensor]:
    """The parameters that train, by name, also while they are frozen for a moment, and the user's own buffers.

    Args:
        trains: names of those that trained when the model was made.
        waiting: what was loaded while there is no model.
        destination, prefix, keep_vars: as for nn.Module.state_dict, whose caller may be a module around this one.
    """
    state = {} if destination is None else destination
    for name, parameter in module.named_parameters():
        if parameter.requires_grad or name in trains:
            state[prefix + name] = parameter if keep_vars else parameter.detach()
    for name, buffer in own_buffers(module).items():
        state[prefix + name] = buffer if keep_vars else buffer.detach()
    state.update({prefix + name: value for name, value in waiting.items()})
    return state


def own_buffers(module: pl.LightningModule) -> dict[str, Tensor]:
    """What a subclass registered outside the model to be saved, by name: the base's own buffers are on disk already."""
    model: Any = module.model
    base = set() if model is None else set(model.modules())
    return {
        f"{prefix}.{name}".lstrip("."): buffer
        for prefix, part in module.named_modules()
        if part not in base
        for name, buffer in part._buffers.items()
        if buffer is not None and name not in part._non_persistent_buffers_set
    }


def freeze(module: Any) -> Any:
    """Freeze a module; its state keeps what trained, also what a subclass thawed or added after its model was made."""
    if module.model is not None:
        module.trained_names |= {name for name, p in module.named_parameters() if p.requires_grad}
    return pl.LightningModule.freeze(module)


def check_exportable(model: torch.nn.Module) -> None:
    """Refuse to train for an export what no export would have: an adapter's files hold LoRA and rows of tokens.

    Raises:
        InputError: something else trains, or another adapter than the module's own.
    """
    for name, parameter in model.named_parameters():
        exported = ".token_rows." in name or ("lora_" in name and "default" in name.split("."))
        if parameter.requires_grad and not exported:
            raise InputError(
                f"{name} trains, and neither the exported adapter nor the merged model would have it: they hold what "
                "the adapter named default and rows of new tokens learn. Freeze it, or leave ExportModel out and keep "
                "the checkpoints."
            )


def model_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The part of a module's state that is its model's, for a model that is still to come.

    So a fit in processes of its own (`ddp_notebook`) hands what it trained to the process that began it.
    """
    return {name: value for name, value in state.items() if name.startswith("model.")}


def load_trained(
    load: Callable[..., _IncompatibleKeys],
    state: Mapping[str, Any],
    trains: Collection[str],
    strict: bool,
    assign: bool,
) -> _IncompatibleKeys:
    """`load_state_dict` for which the frozen base is not missing.

    Args:
        load: nn.Module's own.
        state: tensors by name.
        trains: names of the parameters that are to be there.
        strict: whether all of these and no others have to be there.
        assign: as for `load`.

    Raises:
        RuntimeError: `strict`, and they are not.
    """
    found = load(state, strict=False, assign=assign)
    missing = [name for name in found.missing_keys if name in trains]
    if strict and (missing or found.unexpected_keys):
        raise RuntimeError(
            f"These are not the parameters that train here. Missing: {missing[:3]} of {len(missing)}; unexpected: "
            f"{found.unexpected_keys[:3]} of {len(found.unexpected_keys)}."
        )
    return _IncompatibleKeys(missing, found.unexpected_keys)


def thaw(module: Any) -> Any:
    """Undo `freeze`: what trained before trains again, and the base, mostly in 4 bits, stays as it is.

    Returns:
        the module.
    """
    base = {id(p) for p in module.model.parameters()} if module.model is not None else set()
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name in module.trained_names or id(parameter) not in base)
    return module.train()
