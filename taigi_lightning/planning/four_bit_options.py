"""Options that only 4-bit weights in layers that are written out here can follow, and what has no 4-bit weights."""

from __future__ import annotations

from typing import Literal

from taigi_lightning.errors import InputError

# Of each option the values that ask for nothing, what to set instead, and what is done with 4-bit weights alone.
OPTIONS: dict[str, tuple[tuple[object, ...], str, str]] = {
    "matmul": (("bf16",), "bf16", "those are multiplied"),
    "weights_on_host": (("auto", "none", 0), "none", "such can wait there"),
}


def own_code(reason: str | None) -> str | None:
    """Why layers that run as transformers wrote them cannot follow; None if reason, why they do so, is None."""
    return None if reason is None else f"this model's layers run through transformers' own code: {reason}"


def check_option(
    name: Literal["matmul", "weights_on_host"],
    value: object,
    *,
    quantization: str = "nf4",
    fault: str | None = None,
) -> None:
    """Refuse an option that cannot be followed.

    Args:
        quantization: of the base's weights.
        fault: what else stands in the way.

    Raises:
        InputError: it asks for something, and the weights are not in 4 bits or there is a fault.
    """
    unasked, otherwise, done = OPTIONS[name]
    advice = f"Set --model.{name} {otherwise}."
    if quantization != "nf4":
        fault = f"with quantization {quantization} no weights are in 4 bits, and only {done}"
        advice += " It wants --model.quantization nf4."
    if fault is not None and value not in unasked:
        raise InputError(f"model.{name} is {value}, but {fault}. {advice}")


def check_from_scratch(quantization: str, *, adapted: bool) -> None:
    """Refuse what random weights cannot have.

    Raises:
        InputError: 4 bits, or an adapter.
    """
    if quantization == "nf4":
        raise InputError("Random weights cannot train in 4 bits: set quantization to none with from_scratch.")
    if adapted:
        raise InputError("An adapter on random weights means nothing: leave lora and adapter out.")
