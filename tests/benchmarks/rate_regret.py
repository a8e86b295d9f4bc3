"""What it costs to take a card for faster or slower than it is when its layers' weights and activations are placed.

    python tests/benchmarks/rate_regret.py

Needs no GPU: for five bases, several cards, hosts and links each plan is made with one share of a burst's rate and
timed, by the same model, with another. A line is the share that was counted, a column the true one; a cell the largest
loss against the best of these plans, and the mean.
"""

from dataclasses import replace
from itertools import product

from taigi_lightning.planning.base_shape import KNOWN, gemma3
from taigi_lightning.planning.memory import GIB, Shape
from taigi_lightning.planning.settings import Settings
from taigi_lightning.planning.step_time import Machine, step_seconds
from taigi_lightning.planning.training_needs import placed

SHARES = (0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 1.0)
SHAPES = [
    KNOWN["Bohanlu/Taigi-Llama-2-13B"],
    KNOWN["google/gemma-3-12b-it"],
    gemma3(34, 2560, 10240, 8, 4, 256),
    Shape(36, 4096, 12288, 32, 8, 128, 151936, head_norm=256),
    Shape(32, 4096, 14336, 32, 8, 128, 128256),
]
# Bytes a second of the link, operations a second of a burst: slow cards in three slots, faster ones, an H200.
MACHINES = [
    (6e9, 50e12), (13e9, 50e12), (26e9, 50e12), (13e9, 100e12), (25e9, 165e12), (25e9, 300e12), (12e9, 810e12),
    (50e9, 810e12),
]  # fmt: skip
MEMORY = [(8, 16), (8, 32), (12, 16), (16, 32), (24, 64)]  # GiB of card and host


def losses() -> dict[tuple[float, float], list[float]]:
    """By the share that was counted and the true one, how much longer than the best each plan takes."""
    found: dict[tuple[float, float], list[float]] = {}
    for shape, (link, burst), (card, host), rows in product(SHAPES, MACHINES, MEMORY, (1, 4)):
        settings = replace(Settings(rank=64, accumulate=4), batch_size=rows)
        plans = [
            placed(settings, shape, card * GIB, Machine(link, share * burst), host * GIB) for share in SHARES
        ]
        if not all(plan.fits for plan in plans):
            continue
        for true in SHARES:
            machine = Machine(link, true * burst)
            took = [
                step_seconds(plan.decision.savings, plan.on_host, shape, settings.tokens, machine)
                for plan in plans
            ]
            for share, seconds in zip(SHARES, took, strict=True):
                found.setdefault((share, true), []).append(seconds / min(took) - 1)
    return found


if __name__ == "__main__":
    lost = losses()
    print(f"{len(lost[1.0, 1.0])} cases; counted, then true:", *SHARES)
    for share in SHARES:
        cells = (lost[share, true] for true in SHARES)
        print(share, *(f"{100 * max(cell):.1f}/{100 * sum(cell) / len(cell):.2f}%" for cell in cells))
