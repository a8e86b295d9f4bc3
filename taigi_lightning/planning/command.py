"""python -m taigi_lightning plan: what a config will need, said before anything is downloaded or loaded."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from jsonargparse import ArgumentParser
from jsonargparse.typing import PositiveFloat

from taigi_lightning.errors import InputError
from taigi_lightning.kernels.available_memory import available_bytes, installed_bytes, lockable_bytes
from taigi_lightning.kernels.matmul import format_of
from taigi_lightning.kernels.triton_support import triton_fault
from taigi_lightning.planning.base_shape import read_base
from taigi_lightning.planning.cards import Card, found_cards, smallest
from taigi_lightning.planning.disk import free_space
from taigi_lightning.planning.earlier_stages import beyond_lora
from taigi_lightning.planning.hardware_table import hardware_table
from taigi_lightning.planning.memory import Shape
from taigi_lightning.planning.new_words import read_words
from taigi_lightning.planning.option_checks import check_devices, check_ranks
from taigi_lightning.planning.pieces import count_pieces, sample_texts, spans_by_files, with_words
from taigi_lightning.planning.plan import Disk, Found, Plan, folders, make_plan
from taigi_lightning.planning.plan_text import render
from taigi_lightning.planning.precisions import ON_GPUS, SIXTEEN_BITS, usual_precision
from taigi_lightning.planning.settings import (
    Capability,
    LinkSpeed,
    MemorySize,
    Settings,
    count_devices,
    epoch_characters,
    parse_size,
    parse_speed,
    past_speed,
    read_settings,
)
from taigi_lightning.planning.step_time import ASSUMED, Machine
from taigi_lightning.terminal import print_text
from taigi_lightning.windows import lends_host_memory

THE_CARD = "the card given"
WANTING = "trainer.devices wants {wanted} cards, and {found} can be seen here: this is of a machine with more like it."
SHARED = (
    "The card's own (dedicated) memory alone is counted. Windows lends host memory as shared GPU memory beyond it, "
    "and a run that takes it crawls: `fit` is held to what is free of the card's own. What the desktop has taken of "
    "it, the Task Manager shows; it is counted of the card here, and is to be left out of --gpu_memory."
)


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of `plan` alone."""
    parser.add_argument(
        "--gpu_memory",
        type=MemorySize | None,
        help="the card's memory, such as 16GiB; without it, what is free of the card here",
    )
    parser.add_argument(
        "--gpu_capability",
        type=Capability | None,
        help="the card's compute capability, such as 8.9, which says whether it has bfloat16 and multiplies in 8 bits; "
        "without it, that of the card here unless --gpu_memory names another",
    )
    parser.add_argument(
        "--host_memory",
        type=MemorySize | None,
        help="host memory that is available before a run, such as 10GiB of 16 installed; without it, that of this "
        "machine if the card is its own, else what moves there is taken to fit",
    )
    parser.add_argument(
        "--pinned_memory",
        type=MemorySize | None,
        help="host memory that the driver lets be page-locked; without it, on Windows 45 %% of what is installed, "
        "elsewhere all",
    )
    parser.add_argument(
        "--host_link",
        type=LinkSpeed | None,
        help="bytes a second from host memory to the card, such as 25GB/s; without it, 12GB/s, as of PCIe 3",
    )
    parser.add_argument(
        "--tokens_per_second",
        type=PositiveFloat | None,
        help="for the expected time; without it, that of an earlier run in the same folder",
    )
    parser.add_argument(
        "--json", action="store_true", help="for scripts: every figure under a name that ends in its unit"
    )
    parser.add_argument(
        "--table",
        action="store_true",
        help="the same settings with five bases on cards of 8 to 80 GiB instead",
    )


def print_plan(config: Mapping[str, Any]) -> None:
    """Print the plan of a config, or with `json` its `Plan` for scripts, or with `table` other bases' and cards'.

    Args:
        config: what the command line parsed: a stage's config, with the options of `add_arguments`.

    Raises:
        InputError: the base's shape or the adapter's rank is not known, or the config predicts by generating, or a
            run would refuse one of its options; or `table` is to be of one card, or for scripts.
    """
    if config.get("table"):
        _check_table(config)
        # Other cards than the one here: only what was said of them counts.
        named = Card(THE_CARD, 0, config.get("gpu_capability"))
        settings = on_card(read_settings(config), config, [named])
        print_text(hardware_table(settings, machine_of(config), host_bytes(config), named))
        return
    plan = plan_config(config)
    # In ASCII, since a console may lack characters, whose escapes would be no JSON.
    print_text(json.dumps(asdict(plan), indent=2) if config.get("json") else render(plan))


def _check_table(config: Mapping[str, Any]) -> None:
    for option, reason in {"gpu_memory": "its cards have 8 to 80 GiB", "json": "it is text"}.items():
        if config.get(option):
            raise InputError(f"--table does not go with --{option}: {reason}. Leave one of them out.")


def plan_config(config: Mapping[str, Any]) -> Plan:
    """The plan of a config on this machine; arguments and errors as for `print_plan`."""
    check_devices(_of_trainer(config, "devices"))
    named, cards = config.get("gpu_memory"), cards_of(config)
    settings = on_card(read_settings(config), config, cards)
    shape, general = read_base(settings.base)
    general = general or beyond_lora(_of_model(config, "adapter"))
    card = smallest(cards, _of_trainer(config, "devices"))
    here = card is not None and not named
    found = replace(
        _found(settings, shape, card, config.get("tokens_per_second")), machine=machine_of(config),
        host_bytes=host_bytes(config, float(available_bytes()) if here else math.inf),
        without_triton=triton_fault() if here and format_of(settings.matmul) else None,
    )  # fmt: skip
    if not named:
        check_ranks(settings.devices * settings.machines)
    plan = make_plan(settings, shape, found, general)
    lacking = here and settings.devices > len(cards)
    notes = [
        *plan.notes,
        *([WANTING.format(wanted=settings.devices, found=len(cards))] if lacking else []),
        *pieces_of(settings, config),
        *([SHARED] if lends_host_memory() else []),
    ]
    return replace(plan, notes=tuple(notes))


def cards_of(config: Mapping[str, Any]) -> list[Card]:
    """The card that the command line names, or those here, with the compute capability that it says."""
    size, capability = config.get("gpu_memory"), config.get("gpu_capability")
    accelerator = str(_of_trainer(config, "accelerator") or "auto")
    if size:
        return [Card(THE_CARD, parse_size(size), capability)]
    if accelerator not in ON_GPUS:
        return []
    return [replace(card, compute_capability=capability or card.compute_capability) for card in found_cards()]


def on_card(settings: Settings, config: Mapping[str, Any], cards: Sequence[Card]) -> Settings:
    """The settings with what a run takes of the cards that it finds where its config says nothing."""
    devices, precision = _of_trainer(config, "devices"), _of_trainer(config, "precision")
    # Whoever names a card asks of that, whatever runs here.
    if config.get("gpu_memory") and settings.matmul == "bf16":
        settings = replace(settings, accelerator="auto")
    card = smallest(cards, devices)
    usual = usual_precision(settings.accelerator, card.capability if card else None)
    found = replace(settings, card_precision=usual if usual in SIXTEEN_BITS else settings.card_precision)
    if precision is None:
        found = replace(found, precision=usual)
    if settings.accelerator == "cpu" and settings.activation_budget == "auto":
        found = replace(found, activation_budget=1.0)  # as a CPU keeps all
    if count_devices(devices) is None and sys.platform != "win32":  # where one GPU trains
        found = replace(found, devices=max(1, len(cards)))
    return found


def _of_trainer(config: Mapping[str, Any], name: str) -> Any:
    return (config.get("trainer") or {}).get(name)


def _of_model(config: Mapping[str, Any], name: str) -> Any:
    return (config.get("model") or {}).get(name)


def pieces_of(settings: Settings, config: Mapping[str, Any]) -> list[str]:
    """How many tokens the corpus's characters and syllables take, where corpus and tokenizer are in folders here."""
    corpus = next(iter(settings.corpus), None)
    texts = sample_texts(corpus) if corpus is not None else []
    spans = spans_by_files(settings.base, texts) if texts else None
    if corpus is None or spans is None:
        return []
    said = f"{corpus}: {count_pieces(texts, spans)}"
    chosen = ((config.get("model") or {}).get("new_tokens") or {}).get("tokens")
    if chosen is not None:
        words = read_words(chosen)
        longer = [with_words(text, found, words) for text, found in zip(texts, spans, strict=True)]
        said += f"; with {len(words):,} new tokens {count_pieces(texts, longer)}"
    return [f"{said}."]


def machine_of(config: Mapping[str, Any]) -> Machine:
    """The machine planned for."""
    link, pinned = config.get("host_link"), config.get("pinned_memory")
    machine = replace(ASSUMED, link=float(parse_speed(link))) if link else ASSUMED
    if pinned:
        return replace(machine, lockable=float(parse_size(pinned)))
    # A machine with more available than is installed here is another one, with so much at least.
    return replace(machine, lockable=lockable_bytes(max(installed_bytes(), host_bytes(config, 0.0))))


def host_bytes(config: Mapping[str, Any], otherwise: float = math.inf) -> float:
    """Bytes of host memory that are available; where nothing was said, what is given."""
    size = config.get("host_memory")
    return float(parse_size(size)) if size else otherwise


def _found(settings: Settings, shape: Shape, card: Card | None, speed: float | None) -> Found:
    disks = {}
    for folder in folders(settings, shape):
        place, free = free_space(folder)
        disks[folder] = Disk(place.stat().st_dev, free)
    return Found(
        card=card,
        corpus_characters=epoch_characters(settings.corpus),
        tokens_per_second=speed or past_speed(settings),
        disks=disks,
    )
