"""What a run computes in, by `trainer.precision`, or by the card where nobody said; read without importing torch."""

from __future__ import annotations

from taigi_lightning.errors import InputError

ELEMENT_SIZES = {"bf16-mixed": 2, "16-mixed": 2, "32-true": 4}  # bytes of a hidden state
SHORT_NAMES = {"bf16": "bf16-mixed", "16": "16-mixed", "32": "32-true"}  # Lightning takes them too
SIXTEEN_BITS = ("bf16-mixed", "16-mixed")
BFLOAT16 = (8, 0)  # the first compute capability that has it
ON_GPUS = ("auto", "gpu", "cuda")  # values of trainer.accelerator


def full_name(precision: str) -> str:
    """The precision that is meant.

    Raises:
        InputError: the model is not computed in that.
    """
    name = SHORT_NAMES.get(precision, precision)
    if name not in ELEMENT_SIZES:
        reason = "in which nothing here is computed"
        if name in ("bf16-true", "16-true"):
            reason = "which would store the adapter in 16 bits, where a small step is lost to rounding"
        elif name.startswith("64"):
            reason = "and the base is computed in 32 bits at most"
        raise InputError(
            f"trainer.precision is {precision}, {reason}. Use one of {', '.join(ELEMENT_SIZES)}."
        )
    return name


def element_size(precision: str) -> int:
    """Bytes of one element of the hidden states.

    >>> [element_size(name) for name in ("bf16-mixed", "16", "32-true")]
    [2, 2, 4]
    """
    return ELEMENT_SIZES[full_name(precision)]


def usual_precision(accelerator: str, capability: tuple[int, int] | None) -> str:
    """What a run takes where its config names none.

    Args:
        capability: of the card; None where it is not known, and taken to have bfloat16.

    >>> usual_precision("auto", (7, 5)), usual_precision("gpu", None), usual_precision("cpu", None)
    ('16-mixed', 'bf16-mixed', '32-true')
    """
    if accelerator not in ON_GPUS:
        return "32-true"
    return "bf16-mixed" if capability is None or capability >= BFLOAT16 else "16-mixed"
