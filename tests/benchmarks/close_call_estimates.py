"""Whether as many answers differ after close calls were asked again as are expected to: drawn at random.

    python -m tests.benchmarks.close_call_estimates --sets 60

Of each kind of noise and size of it, so many sets of questions with normally distributed log-probabilities are moved by
noise, settled as `predict` does, and compared with what they were. A line for each: how many were asked again, how many
of the others were expected to differ and did, mean of all sets; the most of any; and in how many sets no more did than
`hardly_more` says.
"""

import argparse
import math
import random
from collections.abc import Callable
from statistics import fmean

from taigi_lightning.evaluation.close_calls import ask_closest, hardly_more
from taigi_lightning.evaluation.predictions import Prediction, choose

SIZES = ((0.12, 1.5), (0.06, 1.5), (0.04, 2.0))  # of the noise, of the log-probabilities, in nats


def student(draw: random.Random) -> float:
    """Of four degrees of freedom, with a variance of 1."""
    return draw.gauss(0, 1) / math.sqrt(draw.gammavariate(2, 2) / 2)


def rare(draw: random.Random) -> float:
    """A tenth is moved 4.5 times as far as the others."""
    return draw.gauss(0, 3.0 if draw.random() < 0.1 else 0.667)


NOISE: dict[str, Callable[[random.Random], float]] = {
    "normal": lambda draw: draw.gauss(0, 1), "Student's, 4": student, "a tenth 4.5 times": rare,
}  # fmt: skip


def answer(row: int, values: list[float]) -> Prediction:
    return Prediction(row, str(row), choose(values), tuple(values), None, False)


def one_set(
    draw: random.Random, noise: Callable[[random.Random], float], size: float, spread: float, count: int
) -> tuple[int, float, int]:
    """How many were asked again; how many others were expected to differ, and did."""
    exact, before = {}, {}
    for row in range(count):
        values = [draw.gauss(0, spread) for _ in range(4)]
        exact[row] = answer(row, values)
        before[row] = [answer(row, [value + size * noise(draw) for value in values])]
    again, left = ask_closest(before, lambda rows: [exact[row] for row in rows])
    differ = sum(turns[0].answer != exact[row].answer for row, turns in (before | again).items())
    return len(again), left, differ


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sets", type=int, default=60)
    parser.add_argument("--questions", type=int, default=1500)
    args = parser.parse_args()
    for name, noise in NOISE.items():
        for size, spread in SIZES:
            sets = [
                one_set(random.Random(seed), noise, size, spread, args.questions) for seed in range(args.sets)
            ]
            asked, expected, found = (fmean(column) for column in zip(*sets, strict=True))
            within = sum(differ <= hardly_more(left) for _, left, differ in sets)
            print(
                f"{name}, {size} of {spread}: asked again {asked:.0f}, expected {expected:.2f}, found {found:.2f}, "
                f"at most {max(differ for *_, differ in sets)}; within {within} of {len(sets)}",
                flush=True,
            )


if __name__ == "__main__":
    main()
