"""What the layers do with their activations as a person reads it, alike in a plan and in a run."""

from __future__ import annotations

from collections.abc import Sequence

from taigi_lightning.planning.activation_plan import Saving, keeps_everything


def mix_in_words(savings: Sequence[Saving]) -> str:
    """How many layers keep all activations, move some to the host, or keep little more than their input.

    >>> mix_in_words([Saving(host=frozenset({"input"}), device=frozenset())] * 3 + [Saving()])
    'of 4 layers none keeps all, 3 move some to the host, 1 keeps little more than its input'
    """
    layers = len(savings)
    keeping = sum(map(keeps_everything, savings))
    if keeping == layers:
        return f"all of {layers} layers"
    moving = sum(bool(saving.host) for saving in savings)
    least = layers - keeping - moving
    said = [f"of {layers} layers {_number(keeping, 'keeps', 'keep')} all"]
    if moving:
        said.append(f"{_number(moving, 'moves', 'move')} some to the host")
    if least:
        said.append(
            f"{_number(least, 'keeps', 'keep')} little more than {'its' if least == 1 else 'their'} input"
        )
    return ", ".join(said)


def _number(count: int, one: str, more: str) -> str:
    return f"{count or 'none'} {one if count < 2 else more}"
