"""Other meanings for a name in the forward pass of one of transformers' modules, without touching its class."""

from __future__ import annotations

from collections.abc import Callable
from functools import update_wrapper
from types import FunctionType, MethodType
from typing import Any


def mean_instead(module: Any, name: str, make: Callable[[Any], Any]) -> bool:
    """Let the forward pass of one module find another value under a global name of its file, in place.

    The pass itself is a copy of the class's with globals of its own. One that was given so already is changed further;
    any other that belongs to the module alone is left as it is.

    Args:
        name: of a global that the pass reads.
        make: of the value that the class's pass finds there what is to be found instead; None: nothing else.

    Returns:
        whether something else is found there now.
    """
    own, present = type(module).forward, vars(module).get("forward")
    if not isinstance(own, FunctionType) or name not in own.__code__.co_names or name not in own.__globals__:
        return False
    if present is not None and not _is_copy(present, own, name):
        return False
    instead = make(own.__globals__[name])
    if instead is None:
        return False
    if present is None:
        # Without the file's own name, by which torch.compile would look names up in the file itself.
        names = {key: value for key, value in own.__globals__.items() if key != "__name__"}
        # And with a code object of its own, by which torch.compile remembers what it made of one module's globals.
        forward = FunctionType(own.__code__.replace(), names, own.__name__, own.__defaults__, own.__closure__)
        forward.__kwdefaults__ = own.__kwdefaults__
        present = module.forward = MethodType(update_wrapper(forward, own), module)
    present.__func__.__globals__[name] = instead
    return True


def _is_copy(present: Any, own: FunctionType, name: str) -> bool:
    """Whether a forward pass is a copy with globals of its own, in which a name still means what it did."""
    copy = getattr(present, "__func__", None)
    return (
        isinstance(copy, FunctionType)
        and copy.__code__ == own.__code__
        and copy.__globals__ is not own.__globals__
        and copy.__globals__[name] is own.__globals__[name]
    )
