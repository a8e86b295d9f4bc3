"""Classes that a command line names: a module of the user's own, and optimizers whose short name torch shares."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from jsonargparse import get_loader, set_loader
from yaml import YAMLError

from taigi_lightning.errors import InputError

# bitsandbytes has optimizers of the same names, which it adds to torch's when it is imported.
TORCHS = ("Adagrad", "Adam", "AdamW", "RMSprop", "SGD")
OPTIMIZER = "--model.optimizer"
MODEL = "--model"


def in_full(value: Any) -> Any:
    """A config with torch's optimizers under their full name where a short one is written.

    >>> in_full({"optimizer": {"class_path": "SGD", "init_args": {"lr": 1}}})
    {'optimizer': {'class_path': 'torch.optim.SGD', 'init_args': {'lr': 1}}}
    """
    if isinstance(value, list):
        return [in_full(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: f"torch.optim.{item}"
        if key in ("class_path", "optimizer") and isinstance(item, str) and item in TORCHS
        else in_full(item)
        for key, item in value.items()
    }


def arguments_in_full(arguments: Sequence[str]) -> list[str]:
    """A command line with torch's optimizers under their full name.

    >>> arguments_in_full(["--model.optimizer", "AdamW", "--model.optimizer.class_path=SGD"])
    ['--model.optimizer', 'torch.optim.AdamW', '--model.optimizer.class_path=torch.optim.SGD']
    """
    options = (OPTIMIZER, f"{OPTIMIZER}.class_path")
    found: list[str] = []
    for argument in arguments:
        name, _, value = argument.partition("=")
        if argument in TORCHS and found and found[-1] in options:
            argument = f"torch.optim.{argument}"  # noqa: PLW2901
        elif name in options and value in TORCHS:
            argument = f"{name}=torch.optim.{value}"  # noqa: PLW2901
        found.append(argument)
    return found


def prefer_torch() -> None:
    """Let short names of optimizers mean torch's, on the command line and in every config."""
    sys.argv[1:] = arguments_in_full(sys.argv[1:])
    load = get_loader("yaml")
    if getattr(load, "prefers_torch", False):
        return

    def loading(text: str) -> Any:
        return in_full(load(text))

    loading.prefers_torch = True  # type: ignore[attr-defined]
    set_loader("yaml", loading, exceptions=(YAMLError,))


def names_own_model(arguments: Sequence[str]) -> bool:
    """Whether a command line names a module of the user's own, as `--model my.Module`.

    >>> names_own_model(["--model", "my.Module"]), names_own_model(["--model", "model.yaml"])
    (True, False)
    """
    return bool(_own_model(arguments)[0])


def _own_model(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """The class path after `--model`, and the other arguments; empty where a file or nothing is given there."""
    found, rest = "", list(arguments)
    for place, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name == MODEL:
            value = value if equals else "".join(arguments[place + 1 : place + 2])
            last = value.rpartition(".")[2]
            if "." in value and last.isidentifier() and last[0].isupper():
                found, rest = value, [*arguments[:place], *arguments[place + (1 if equals else 2) :]]
    return found, rest


def take_own_model(default: type[Any]) -> type[Any]:
    """The class that `--model my.Module` names, which is taken out of `sys.argv`; else the default.

    Raises:
        InputError: there is no such class, or it does not derive from the default.
    """
    path, rest = _own_model(sys.argv)
    if not path:
        return default
    module, _, name = path.rpartition(".")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise InputError(f"--model names a class that is not there: {path} ({error}).") from error
    if not (isinstance(found, type) and issubclass(found, default)):
        raise InputError(f"--model is {path}, which does not derive from {default.__name__}.")
    sys.argv[:] = rest
    return found
