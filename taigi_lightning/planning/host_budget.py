"""How much of a machine's own memory a run lets its weights, activations and tables take."""

from __future__ import annotations

import math
from dataclasses import dataclass

from taigi_lightning.planning.memory import GIB

HOST_SHARE = 0.8  # of the host memory available, for all that leaves the card
ACTIVATION_SHARE = 0.5  # of it, for activations
# Of a process that trains, beside what leaves the card: Python, PyTorch, CUDA's own, the loaded data; 1.4 to 1.7 GiB
# were measured. One that prepares batches has loaded PyTorch as well.
PROCESS, WORKER = int(1.7 * GIB), int(0.5 * GIB)


@dataclass(frozen=True)
class HostBudget:
    """Bytes of host memory for what leaves the cards of one machine.

    Args:
        available: what nothing else uses, the run's own processes among that; what has left the cards does not count
            as used.
        lockable: what the GPU's driver lets be page-locked in all.
        ranks: processes of the run on this machine: they hold one copy of the weights together, of the rest each
            its own.
        most: of one rank's activations, where that was said; None: their share of what is available.
    """

    available: float = math.inf
    lockable: float = math.inf
    ranks: int = 1
    most: float | None = None

    @property
    def in_all(self) -> float:
        """Of all ranks together."""
        return min(HOST_SHARE * max(0.0, self.available), self.lockable)

    @property
    def share(self) -> float:
        """Of one rank's activations, however little else there is."""
        return ACTIVATION_SHARE * max(0.0, self.available) / self.ranks if self.most is None else self.most

    def left(self, weights: float, tables: float) -> float:
        """Of one rank, beside so many bytes of weights, and of tables of its own; below 0, what those lack."""
        return (self.in_all - weights) / self.ranks - tables

    def activations(self, weights: float, tables: float) -> float:
        """What one rank's activations may take beside these."""
        return min(self.share, self.left(weights, tables))


def wanted_available(activations: float, beside: float, processes: float = 0.0) -> float:
    """Bytes of host memory that must be available for so many of activations and of all else that leaves the cards.

    >>> wanted_available(3.0, 5.0, processes=1.0)
    11.0
    """
    return max(activations / ACTIVATION_SHARE, (activations + beside) / HOST_SHARE) + processes
