"""Several sources in given shares: which row comes when, a pure function of the seed and the epoch."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from taigi_lightning.data.packing import Blocks, Packing, Row
from taigi_lightning.errors import InputError


class MixedBlocks(Dataset[Row]):
    """Rows of several sources, one after the other; item i is a row as `Blocks` gives it, ~i the same without labels.

    An epoch is one pass through the first source. Beside each of its rows the others come in their shares: a source
    that is too small for its share begins again, and one that is too large goes on in the next epoch where it stopped.
    Sources are interleaved as evenly as whole rows allow, so that after any number of rows each has its share to
    within one row.

    Args:
        parts: each source's rows; all are of one width, or all as long as what they hold.
        weights: each source's share of the rows, in any unit.
    """

    def __init__(self, parts: Sequence[Blocks], weights: Sequence[float]) -> None:
        self.parts = list(parts)
        self.shares = np.asarray(weights, dtype=np.float64) / sum(weights)
        self.pad_id = parts[0].pad_id
        self._first = np.concatenate(([0], np.cumsum([len(part) for part in parts])))

    @property
    def packing(self) -> Packing:
        """That of the first source; all have one width."""
        return self.parts[0].packing

    def __len__(self) -> int:
        return int(self._first[-1])

    def __getitem__(self, index: int) -> Row:
        place = max(index, ~index)
        part = int(np.searchsorted(self._first, place, side="right")) - 1
        row = place - int(self._first[part])
        return self.parts[part][row if index >= 0 else ~row]

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """Rows of each source in an epoch, [sources] int64: the first one's all, the others' in proportion."""
        rows = np.rint(len(self.parts[0]) * self.shares / self.shares[0]).astype(np.int64)
        counts: NDArray[np.int64] = np.maximum(rows, 1)
        return counts

    @property
    def epoch_rows(self) -> int:
        """Rows of an epoch."""
        return int(self.counts.sum())

    def order(self, seed: int | None, epoch: int) -> NDArray[np.int64]:
        """The rows of an epoch, [epoch_rows] int64.

        Args:
            seed: shuffles every pass through a source anew; None keeps its order.
            epoch: which epoch, from 0.
        """
        due, rows = [], []
        for part, count in enumerate(self.counts.tolist()):
            due.append((np.arange(count) + 0.5) / count)  # where in the epoch each of its rows comes, 0 to 1
            taken = np.arange(epoch * count, (epoch + 1) * count)
            rows.append(self._first[part] + self._passes(part, taken, seed))
        return np.concatenate(rows)[np.argsort(np.concatenate(due), kind="stable")]

    def _passes(self, part: int, taken: NDArray[np.int64], seed: int | None) -> NDArray[np.int64]:
        """Rows of a source at places of its endless stream, which is one shuffled pass after the other."""
        size = len(self.parts[part])
        found = taken % size
        if seed is None:
            return found
        for number in np.unique(taken // size):
            shuffled = np.random.Generator(np.random.PCG64([seed, part, int(number)])).permutation(size)
            chosen = taken // size == number
            found[chosen] = shuffled[found[chosen]]
        return found

    @property
    def supervised_tokens(self) -> int:
        """Tokens that are a target, over the rows of all sources."""
        return int(self.targets.sum())

    @cached_property
    def targets(self) -> NDArray[np.int64]:
        """How many tokens of each row are a target, [len(self)] int64."""
        return np.concatenate([part.targets for part in self.parts])

    @cached_property
    def digest(self) -> str:
        """Identify what is trained on: the sources' data, and their shares."""
        known = [*(part.digest for part in self.parts), *(f"{share:.9f}" for share in self.shares)]
        return hashlib.blake2b(" ".join(known).encode(), digest_size=16).hexdigest()


def read_weights(sources: Mapping[str, float], name: str) -> list[tuple[str, float]]:
    """Sources with their weights, checked.

    Raises:
        InputError: there is none, or a weight is not above zero.
    """
    if not sources:
        raise InputError(
            f"{name} names no source. Give paths with their weights, as in {{data/cpt_corpus: 1}}."
        )
    for source, weight in sources.items():
        if not (isinstance(weight, int | float) and math.isfinite(weight) and weight > 0):
            raise InputError(
                f"{name} gives {source} the weight {weight}. Give a number above 0, or leave it out."
            )
    return [(source, float(weight)) for source, weight in sources.items()]
