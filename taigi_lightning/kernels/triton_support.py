"""Whether the kernels written in Triton can run here; everything they compute is there in plain torch too."""

from __future__ import annotations

import sys
from functools import cache
from importlib import import_module

PLAIN = (
    "the layers' small operations run in plain PyTorch, since Triton cannot be used ({reason}): the same results, "
    "slower; {remedy}"
)


@cache
def triton_fault() -> str | None:
    """Why Triton cannot be imported, or None. Builds of torch for Windows come without it, those for Linux with it."""
    try:
        import_module("triton.language")
    except (
        ImportError,
        OSError,
    ) as error:  # OSError: a library that it needs is missing or of another version
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return None


def plain_operations(cuda: bool, wanted: bool) -> str | None:
    """A line for a run's summary where kernels are wanted and cannot be had.

    Args:
        cuda: whether the run is on a GPU; nothing runs in Triton elsewhere.
        wanted: whether the config asks for them, as it does by default.
    """
    fault = triton_fault() if cuda and wanted else None
    if fault is None:
        return None
    return PLAIN.format(reason=fault, remedy=f"install the package {_package()}")


def kernel_fault(fault: str | None) -> str | None:
    """Why nothing is multiplied whose only kernel is in Triton, or None if it is.

    Args:
        fault: `triton_fault`.
    """
    if fault is None:
        return None
    return f"its kernel is in Triton, which cannot be used ({fault}): install the package {_package()}"


def _package() -> str:
    return "triton-windows" if sys.platform == "win32" else "triton"
