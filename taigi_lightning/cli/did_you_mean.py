"""The known names most like a misspelt one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


def nearest(word: str, known: Iterable[str]) -> list[str]:
    """The known names most like `word`, best first, at most three; the last part of a name counts most.

    >>> nearest("trainer.acumulate_grad_batches", ["trainer.max_steps", "trainer.accumulate_grad_batches"])
    ['trainer.accumulate_grad_batches']
    >>> nearest("lora_aplha", ["r", "lora_alpha", "lora_dropout"])
    ['lora_alpha']
    """
    names = list(dict.fromkeys(known))
    whole = difflib.get_close_matches(word, names, n=3, cutoff=0.75)
    by_leaf = {name.rpartition(".")[2]: name for name in reversed(names)}
    leaf = difflib.get_close_matches(word.rpartition(".")[2], by_leaf, n=3, cutoff=0.75)
    candidates = list(dict.fromkeys([*whole, *(by_leaf[name] for name in leaf)]))
    likeness = {name: difflib.SequenceMatcher(None, word, name).ratio() for name in candidates}
    candidates.sort(key=lambda name: -likeness[name])
    return [name for name in candidates if likeness[name] >= likeness[candidates[0]] - 0.1][:3]


def did_you_mean(near: Sequence[str]) -> str:
    """` Did you mean a or b?`, or nothing where nothing is near."""
    return f" Did you mean {' or '.join(near)}?" if near else ""
