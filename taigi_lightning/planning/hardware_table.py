"""One stage's settings on several bases and cards: what of card and host each takes, and how much slower it is."""

from __future__ import annotations

import math
from dataclasses import replace

from taigi_lightning.planning.base_shape import KNOWN
from taigi_lightning.planning.cards import Card
from taigi_lightning.planning.memory import GIB, Shape
from taigi_lightning.planning.needing_less import fits, fitting, needed
from taigi_lightning.planning.option_checks import check_options
from taigi_lightning.planning.plan_notes import in_8_bits
from taigi_lightning.planning.settings import Settings
from taigi_lightning.planning.step_time import Machine

CARDS = (8, 12, 16, 24, 48, 80)  # GiB
BASES = (
    "Bohanlu/Taigi-Llama-2-7B",
    "Bohanlu/Taigi-Llama-2-13B",
    "google/gemma-3-12b-it",
    "google/gemma-3-27b-it",
    "meta-llama/Llama-3.1-70B",
)


def hardware_table(
    settings: Settings, machine: Machine, host: float = math.inf, card: Card | None = None
) -> str:
    """A Markdown table: a line for each base, a column for each card.

    A cell holds GiB of the card at the peak, GiB of the host, and how many times as long a token takes as on the
    same card if it held everything. A letter stands for the options that the config must be changed by; a dash: no
    options make it fit.

    Args:
        settings: of a stage; its base does not count.
        machine: how fast the host link and the card are.
        host: bytes available on the host.
        card: whose compute capability the cards are to have; None where it was not said.

    Raises:
        InputError: the settings ask for what no base here could follow.
    """
    check_options(settings, None, card)
    machine = machine.computing_in(settings.matmul)
    letters: dict[str, str] = {}
    rows = [["base", *(f"{card} GB" for card in CARDS)], ["-"] * (1 + len(CARDS))]
    for base in BASES:
        shape = KNOWN[base].computed_in(settings.precision)
        cells = [
            _cell(replace(settings, base=base), shape, card * GIB, machine, host, letters) for card in CARDS
        ]
        rows.append([base.rpartition("/")[2], *cells])
    lines = ["|" + "|".join(f" {cell} " if cell != "-" else "-" for cell in row) + "|" for row in rows]
    return "\n".join([*lines, "", *_footnotes(letters, machine, settings)])


def _cell(
    settings: Settings, shape: Shape, card: int, machine: Machine, host: float, letters: dict[str, str]
) -> str:
    need, changed, letter = needed(settings, shape, card, machine=machine, host=host), settings, ""
    if not fits(settings, card, need, host, machine):
        smaller = fitting(settings, shape, card, machine=machine, host=host)
        if smaller is None:
            return "–"
        flags, changed = smaller
        need = needed(changed, shape, card, machine=machine, host=host)
        letter = " " + letters.setdefault(" ".join(flags), chr(ord("a") + len(letters)))
    times = need.decisions.kept_slow_down
    return f"{need.total / GIB:.1f} + {need.host_total / GIB:.1f}, {times:.2f}{letter}"


def _footnotes(letters: dict[str, str], machine: Machine, settings: Settings) -> list[str]:
    speed = (
        f"{machine.link / 1e9:.0f} GB/s from host to card (--host_link), {machine.rate / 1e12:.0f} TFLOP/s"
    )
    return [
        "GiB of the card + GiB of the host, times as long a token takes as if the card held everything; counted for "
        f"{speed}.",
        *([] if (said := in_8_bits(settings)) is None else [f"{said}."]),
        *(f"{letter}: {flags}" for flags, letter in letters.items()),
    ]
