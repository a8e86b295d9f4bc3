"""An optimizer that was made before the model: filled with what trains once that is there, and useless till then."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import lightning.pytorch as pl
import torch
from torch import nn
from torch.optim import Optimizer

from taigi_lightning.errors import InputError

FREEZES = "The model is not there yet: call module.configure_model() before you freeze or thaw it."


class PromisedParameter(nn.Parameter):
    """Stands for all that will train. An optimizer of it reads its gradient first of all, and is refused there.

    Raises:
        InputError: its gradient is asked for.
    """

    def __new__(cls) -> PromisedParameter:
        """No elements: a count of parameters is not changed by it."""
        return super().__new__(cls, torch.empty(0))

    @property
    def grad(self) -> None:  # type: ignore[override]
        """Nothing: there is no model yet."""
        raise InputError(
            "The optimizer was made of a module whose model was not there yet, so that it would train nothing. Call "
            "module.configure_model() before you make it, or leave it to the module: `optimizer` in its arguments."
        )

    def requires_grad_(self, requires_grad: bool = True) -> NoReturn:
        """Nothing to freeze or thaw yet."""
        raise InputError(FREEZES)

    @property
    def requires_grad(self) -> bool:
        """What it stands for trains."""
        return True

    @requires_grad.setter
    def requires_grad(self, value: bool) -> NoReturn:
        raise InputError(FREEZES)


def model_parameters(module: Any, recurse: bool = True) -> Iterator[nn.Parameter]:
    """A `CausalLMModule`'s parameters; before its model is there, one that stands for those that will train."""
    if module.model is None:
        return iter([PromisedParameter()])
    return pl.LightningModule.parameters(module, recurse)


def keep_promises(module: Any) -> None:
    """Let the optimizer that LightningCLI made for a module, before its model was there, train what trains.

    `LightningCLI` with `--optimizer` makes one of `module.parameters()` at once, and puts a `configure_optimizers` that
    gives it back into the module: that is what is changed here, as often as a model is made.

    Args:
        module: a `CausalLMModule` whose model is there.
    """
    configure: Callable[[], Any] | None = vars(module).get("configure_optimizers")
    if configure is None or hasattr(configure, "keeps_promises"):
        return

    def configure_optimizers() -> Any:
        found = configure()
        trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        for optimizer in _optimizers(found):
            for group in optimizer.param_groups:
                if any(isinstance(parameter, PromisedParameter) for parameter in group["params"]):
                    group["params"] = trained
        return found

    configure_optimizers.keeps_promises = True  # type: ignore[attr-defined]
    module.configure_optimizers = configure_optimizers


def _optimizers(found: Any) -> Iterator[Optimizer]:
    """Those in what `configure_optimizers` gave, in any of the forms that Lightning takes."""
    if isinstance(found, Optimizer):
        yield found
    elif isinstance(found, dict):
        yield from _optimizers(found.get("optimizer"))
    elif isinstance(found, list | tuple):
        for part in found:
            yield from _optimizers(part)
