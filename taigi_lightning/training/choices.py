"""Words among a constructor's arguments, held against those that its annotations allow.

The command line's parser does so for configs. In Python nobody would, and a misspelt word would mean whatever the code
that reads it takes it for.
"""

from __future__ import annotations

from collections.abc import Callable
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from taigi_lightning.errors import InputError


def check_choices(function: Callable[..., Any], arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments as they are, unless one is a word that means nothing there.

    Args:
        function: whose annotations say which words there are.
        arguments: by name; of one that may be something else than these words, only a word is looked at.

    Raises:
        InputError: the first argument that is not as annotated.
    """
    for name, hint in get_type_hints(function).items():
        kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        words = [word for kind in kinds if get_origin(kind) is Literal for word in get_args(kind)]
        if name not in arguments or not words:
            continue
        found = arguments[name]
        if (isinstance(found, str) or len(kinds) == 1) and found not in words:
            known = ", ".join(words) + (", or another kind of value" if len(kinds) > 1 else "")
            raise InputError(f"{name} is {found!r}; wanted one of {known}.")
    return arguments
