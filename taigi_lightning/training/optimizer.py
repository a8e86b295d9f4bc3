"""The optimizer over what trains, with LoRA+'s two rates where they are asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch.cli import OptimizerCallable

from taigi_lightning.errors import InputError
from taigi_lightning.training.lr_schedule import scale_rates
from taigi_lightning.training.optimizer_modes import set_modes


def make_optimizer(
    build: OptimizerCallable,
    parameters: Mapping[str, torch.nn.Parameter],
    lora_plus_ratio: float | None,
    rate: float | None = None,
    token_rate: float | None = None,
) -> torch.optim.Optimizer:
    """Build an optimizer over the parameters that train.

    Args:
        build: makes it from parameters or parameter groups.
        parameters: all of the module, by name.
        lora_plus_ratio: how many times A's learning rate B's is (Hayou et al. 2024, LoRA+); None trains all at one.
        token_rate: that of the rows of new tokens, which no weight decay pulls towards zero; None: as the others'.
        rate: the first parameter group's, in place of what `build` gives; the others keep their proportion to it.

    Raises:
        InputError: nothing trains, the optimizer refuses its settings, or there is no adapter for LoRA+.
    """
    trained = {name: parameter for name, parameter in parameters.items() if parameter.requires_grad}
    rows = [trained.pop(name) for name in list(trained) if ".token_rows." in name]
    if not trained:
        raise InputError("Nothing would train: all parameters are frozen. Call module.unfreeze() first.")
    faster = [parameter for name, parameter in trained.items() if ".lora_B." in name]
    groups: Any = [{"params": list(trained.values())}] if rows else trained.values()
    if lora_plus_ratio is not None:
        if not faster:
            raise InputError(
                "model.lora_plus_ratio sets two learning rates of an adapter, and none trains here. Give "
                "--model.lora.r, or leave lora_plus_ratio out."
            )
        slower = [parameter for name, parameter in trained.items() if ".lora_B." not in name]
        groups = [{"params": slower}, {"params": faster}]
    if rows:
        groups.append({"params": rows, "weight_decay": 0.0})
    try:
        optimizer = build(groups)
    except ValueError as error:
        raise InputError(f"The optimizer refuses its settings under model.optimizer: {error}.") from error
    if lora_plus_ratio is not None:
        optimizer.param_groups[1]["lr"] *= lora_plus_ratio
    if rows and token_rate is not None:
        optimizer.param_groups[-1]["lr"] = token_rate
    if rate is not None:
        scale_rates(optimizer, rate)
    set_modes([optimizer], training=True)
    return optimizer
