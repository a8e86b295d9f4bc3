"""python -m taigi_lightning plan: what a config will need, said before anything is downloaded or loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from taigi_lightning.planning.disk import free_space
from taigi_lightning.planning.memory import Shape
from taigi_lightning.planning.plan import Card, Disk, Found, Plan, folders, make_plan
from taigi_lightning.planning.plan_text import render
from taigi_lightning.planning.settings import (
    Settings,
    epoch_characters,
    found_card,
    parse_size,
    parse_speed,
    past_speed,
    read_base,
    read_settings,
)
from taigi_lightning.planning.step_time import ASSUMED


def print_plan(config: Mapping[str, Any]) -> None:
    """Print the plan of a config, or with `json` its `Plan` for scripts.

    Args:
        config: what the command line parsed: a stage's config, with `gpu_memory`, `tokens_per_second`, `json`.

    Raises:
        InputError: the base's shape or the adapter's rank is not known, or the config predicts by generating.
    """
    plan = plan_config(config)
    print(json.dumps(asdict(plan), ensure_ascii=False, indent=2) if config.get("json") else render(plan))


def plan_config(config: Mapping[str, Any]) -> Plan:
    """The plan of a config on this machine; arguments and errors as for `print_plan`."""
    settings = read_settings(config)
    shape, general = read_base(settings.base)
    size, speed = config.get("gpu_memory"), config.get("tokens_per_second")
    card = ("the card given", parse_size(size)) if size else found_card()
    link = config.get("host_link")
    machine = replace(ASSUMED, link=float(parse_speed(link))) if link else ASSUMED
    return make_plan(settings, shape, replace(_found(settings, shape, card, speed), machine=machine), general)


def _found(settings: Settings, shape: Shape, card: tuple[str, int] | None, speed: float | None) -> Found:
    disks = {}
    for folder in folders(settings, shape):
        place, free = free_space(folder)
        disks[folder] = Disk(place.stat().st_dev, free)
    return Found(
        card=Card(*card) if card else None,
        corpus_characters=epoch_characters(settings.corpus),
        tokens_per_second=speed or past_speed(settings),
        disks=disks,
    )
