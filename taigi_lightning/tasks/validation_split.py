"""Holding examples out for validation, by whole groups: all questions on one passage, say."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import TypeVar

from taigi_lightning.errors import InputError
from taigi_lightning.tasks.questions import Question

Item = TypeVar("Item")


def check_fraction(fraction: float) -> None:
    """Refuse a share that is none.

    Raises:
        InputError: the fraction is below 0, or 1 or more.
    """
    if not 0 <= fraction < 1:
        raise InputError(f"validation_fraction is {fraction}. Set it to 0 or more and below 1.")


def split_by_passage(questions: list[Question], fraction: float) -> tuple[list[Question], list[Question]]:
    """Hold out about `fraction` of the questions, all questions on one passage together; see `split_by_group`."""
    return split_by_group(
        questions, [passage_key(question) for question in questions], fraction, "questions share one passage"
    )


def split_by_group(
    items: Sequence[Item], keys: Sequence[bytes], fraction: float, together: str
) -> tuple[list[Item], list[Item]]:
    """Hold out about `fraction` of the items, all items of one key together.

    Which groups are held out depends on their keys alone: neither on the seed nor on the rows' order, so runs with
    different seeds are validated on the same items. White space does not make a passage new.

    Args:
        items: what is divided.
        keys: each item's group.
        fraction: the share to hold out.
        together: what an error says of a single group, such as "questions share one passage".

    Returns:
        The items to train on and those held out, each in file order.

    Raises:
        InputError: a share is asked for, and there is only one group, or it would leave nothing to train on.
    """
    check_fraction(fraction)
    counts = Counter(keys)
    if fraction and len(counts) == 1:
        raise InputError(f"All {together}. Set validation_fraction to 0 or give a validation_file.")
    held_out: set[bytes] = set()
    missing = max(1, round(fraction * len(items))) if fraction else 0
    if missing >= len(items):
        raise InputError(
            f"validation_fraction {fraction} of {len(items)} {together.partition(' ')[0]} leaves none to train on. "
            "Lower it, or give a validation_file and set it to 0."
        )
    for key in sorted(counts)[:-1]:
        if missing <= 0:
            break
        held_out.add(key)
        missing -= counts[key]
    train = [item for item, key in zip(items, keys, strict=True) if key not in held_out]
    return train, [item for item, key in zip(items, keys, strict=True) if key in held_out]


def passage_key(question: Question) -> bytes:
    """Identify a passage; white space does not make it another one."""
    return hashlib.blake2b("".join(question.passage.split()).encode()).digest()
