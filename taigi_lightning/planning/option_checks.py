"""What a run would refuse of its options, refused in the same words before anything of it is there."""

from __future__ import annotations

import sys

from taigi_lightning.errors import InputError
from taigi_lightning.kernels.matmul import capability_fault, format_of
from taigi_lightning.kernels.triton_support import kernel_fault
from taigi_lightning.planning.cards import Card
from taigi_lightning.planning.four_bit_options import check_option, own_code
from taigi_lightning.planning.precisions import ON_GPUS, full_name
from taigi_lightning.planning.settings import Settings

# Nor is the store by which processes find one another: github.com/pytorch/pytorch/issues/139990.
SEVERAL_ON_WINDOWS = (
    "trainer.devices x trainer.num_nodes is {wanted}, and PyTorch for Windows cannot let several GPUs train "
    "together (NCCL is not in it). Give --trainer.devices 1, or train under WSL2."
)


def check_devices(devices: object) -> None:
    """Refuse `trainer.devices` that names none.

    Raises:
        InputError: it does.
    """
    if str(devices) in ("0", "", "[]"):
        raise InputError(f"trainer.devices is {devices!r}: no device. Give how many, or auto.")


def check_ranks(wanted: int) -> None:
    """Refuse several ranks on Windows.

    Raises:
        InputError: this is Windows, and more than one is wanted.
    """
    if sys.platform == "win32" and wanted > 1:
        raise InputError(SEVERAL_ON_WINDOWS.format(wanted=wanted))


def check_options(
    settings: Settings, general: str | None, card: Card | None = None, without_triton: str | None = None
) -> None:
    """Refuse what a run would refuse of its options once the path of its layers is known.

    Args:
        general: why the base's layers take the general path; None: they take the fast one.
        card: what it would run on, as far as that is known.
        without_triton: why Triton cannot be used there; None where it can, or where that is not known.

    Raises:
        InputError: nothing is computed in that precision; or products are to be in 8 bits, or weights to wait on the
            host, that cannot.
    """
    full_name(settings.precision)
    quantization, fault = settings.quantization, own_code(general)
    no_8_bits = _no_8_bits(settings, card, without_triton)
    check_option("matmul", settings.matmul, quantization=quantization, fault=no_8_bits or fault)
    check_option("weights_on_host", settings.weights_on_host, quantization=quantization, fault=fault)


def _no_8_bits(settings: Settings, card: Card | None, without_triton: str | None) -> str | None:
    """Why trainer or card leave no products in 8 bits; None if they do, as far as that is known."""
    name = format_of(settings.matmul)
    if name is None:
        return None
    if settings.accelerator not in ON_GPUS:
        return (
            f"trainer.accelerator is {settings.accelerator}, and 8 bits are multiplied on NVIDIA cards alone"
        )
    if card is not None and card.capability is not None:
        fault = capability_fault(name, card.name, card.capability)
        if fault is not None:
            return fault
    if full_name(settings.precision) != "bf16-mixed":
        return f"trainer.precision is {settings.precision}, and its results are in bfloat16 (bf16-mixed)"
    return kernel_fault(without_triton) if name == "int8" else None
