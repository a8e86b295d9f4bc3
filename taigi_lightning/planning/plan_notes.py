"""What a plan says beside its figures."""

from __future__ import annotations

from taigi_lightning.kernels.matmul import CARDS, format_of, forward_in_8_bits
from taigi_lightning.planning.cards import Card
from taigi_lightning.planning.host_budget import wanted_available
from taigi_lightning.planning.memory import GIB
from taigi_lightning.planning.needs import Needs
from taigi_lightning.planning.precisions import BFLOAT16
from taigi_lightning.planning.settings import Settings
from taigi_lightning.planning.step_time import Machine
from taigi_lightning.planning.training_needs import ACTIVATIONS, WAITING, host_budget


def notes_of(
    settings: Settings, need: Needs, machine: Machine, fits: bool | None, card: Card | None
) -> list[str]:
    """Sentences on what a plan's figures leave open.

    Args:
        fits: whether the card and the host hold it; None without a card.
        card: the one planned for.
    """
    notes = _of_8_bits(settings, card)
    if card is not None and card.capability is not None and card.capability < BFLOAT16:
        notes.append(
            f"A card of compute capability {card.compute_capability} has no bfloat16, so all is counted in "
            f"{settings.precision}."
        )
    if need.decisions.path_reason is not None:
        what = "no layer is dequantised" if settings.predicts else "it is slower and takes more memory"
        notes.append(
            f"Its layers run as transformers wrote them, not on the fast path ({need.decisions.path_reason}): {what}."
        )
    if settings.new_tokens and not settings.predicts:
        notes.append(
            f"Rows of {settings.new_tokens:,} tokens train beside LoRA, so embedding and output head stay on the card. "
            "All are counted as added; those of words that are tokens already make no table longer."
        )
    notes += _of_host(settings, need, machine, fits)
    if settings.predicts or settings.fills_rows:
        return notes
    return [
        *notes,
        "Rows are not filled: a step sees as many tokens as its examples have, and at most these.",
    ]


def in_8_bits(settings: Settings) -> str | None:
    """What is in 8 bits and which cards multiply it; None if all is in 16."""
    name = format_of(settings.matmul)
    if name is None:
        return None
    which = "Products" if forward_in_8_bits(settings.matmul) else "The gradients' products"
    return f"{which} with the 4-bit weights are in {name}, which takes a card of compute capability {CARDS[name]}"


def _of_8_bits(settings: Settings, card: Card | None) -> list[str]:
    said = in_8_bits(settings)
    if said is None:
        return []
    if card is None or card.capability is None:
        return [f"{said} and trainer.precision bf16-mixed. --gpu_capability says which yours has."]
    return [f"{said}: this one has {card.compute_capability}."]


def _of_host(settings: Settings, need: Needs, machine: Machine, fits: bool | None) -> list[str]:
    """On what waits in host memory, or moves there."""
    activations = sum(part.bytes for part in need.host if part.purpose == ACTIVATIONS)
    waiting = sum(part.bytes for part in need.host if part.purpose == WAITING)
    notes = []
    if waiting:
        found, link, rate = need.decisions, machine.link / 1e9, machine.rate / 1e12
        notes.append(
            f"The 4-bit weights of {found.layers_on_host} of {found.layers} layers wait in host memory and arrive "
            f"while others compute: {found.slow_down:.2f} times the time at {link:.0f} GB/s (--host_link) on a card of "
            f"{rate:.0f} TFLOP/s. A run {'counts' if settings.predicts else 'measures both and decides'} anew."
        )
    if need.host:
        parts = ", ".join(f"{part.purpose} {part.bytes / GIB:.1f}" for part in need.host)
        ranks = f" Its {settings.devices} ranks hold one copy of the weights together." if waiting else ""
        notes.append(
            f"On the host (GiB): {parts}."
            + (_wanted(settings, need, machine, activations) if fits is not False else "")
            + (ranks if settings.devices > 1 else "")
        )
    return notes


def _wanted(settings: Settings, need: Needs, machine: Machine, activations: int) -> str:
    own = -host_budget(settings, 0.0, machine).available
    available = max(wanted_available(activations, need.host_total - activations, own), need.loading + own)
    loading = f" While they load, {need.loading / GIB:.1f} GiB of weights wait there." if need.loading else ""
    return (
        f" {available / GIB:.1f} GiB must be available there before the run starts: itself it takes {own / GIB:.1f}; "
        "of the rest at most half is for activations, four fifths for all that leaves the card. With less it decides "
        f"anew and computes more again, or says that it cannot.{loading}"
    )
