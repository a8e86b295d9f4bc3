"""python -m taigi_lightning plan: what a config will need, said before anything is downloaded or loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from taigi_lightning.planning import activation_plan
from taigi_lightning.planning.disk import free_space, same_disk
from taigi_lightning.planning.memory import GIB, Shape
from taigi_lightning.planning.prediction_needs import fitting_tokens, predict_needs
from taigi_lightning.planning.settings import (
    Settings,
    base_shape,
    corpus_characters,
    found_card,
    parse_size,
    past_speed,
    read_settings,
)
from taigi_lightning.planning.training_needs import Need, disk_needs, download_needs, fitting_flags, needs


def print_plan(config: Mapping[str, Any]) -> None:
    """Print the plan of a config.

    Args:
        config: what the command line parsed: a stage's config, with `gpu_memory` and `tokens_per_second`.

    Raises:
        InputError: the base's shape or the adapter's rank is not known, or the config predicts by generating.
    """
    settings = read_settings(config)
    size = config["gpu_memory"]
    card = ("the card given", parse_size(size)) if size else found_card()
    shape = base_shape(settings.base)
    if settings.predicts:
        print(render_prediction(settings, shape, card))
    else:
        print(render(settings, shape, card, config["tokens_per_second"] or past_speed(settings)))


def render(settings: Settings, shape: Shape, card: tuple[str, int] | None, speed: float | None) -> str:
    """The whole plan of a training run as text."""
    size = card[1] if card else None
    need = needs(settings, shape, size)
    trained = f"LoRA r {settings.rank}" if settings.rank else "every weight"
    lines = [
        f"{settings.base}: {shape.parameters:,} parameters, {settings.quantization}, {trained}, "
        f"{settings.batch_size} x {settings.max_length} tokens",
        "",
        "On the card, at the peak" + (" (GiB)" if card else ", at least (GiB)"),
        *_table(need),
        *_verdict(settings, shape, card, need),
        *_course(settings, speed),
        *_disk(disk_needs(settings, shape)),
    ]
    return "\n".join(lines)


def render_prediction(settings: Settings, shape: Shape, card: tuple[str, int] | None) -> str:
    """The whole plan of a prediction as text."""
    need = predict_needs(settings, shape, card[1] if card else None)
    adapter = f"adapter r {settings.rank}" if settings.rank else "no adapter"
    head = f"{settings.base}: {shape.parameters:,} parameters, {settings.quantization}, {adapter}, prediction"
    lines = [head, "", "On the card (GiB)", *_table(need)]
    if card is None:
        lines += NO_CARD
    elif need.total <= card[1]:
        lines += [_fits(card, need), ""]
    else:
        name, size = card
        lines += [
            f"It does not fit {name} ({size / GIB:.1f} GiB): {(need.total - size) / GIB:.1f} GiB too much."
        ]
        tokens = fitting_tokens(settings, shape, size)
        lines += ["This fits:", f"  --data.batch_tokens {tokens}", ""] if tokens else [NOTHING_HELPS, ""]
    download = download_needs(settings.base, shape)
    return "\n".join(lines + (_disk(download) if download else []))


NO_CARD = ["No NVIDIA card found here. Give one: --gpu_memory 16GiB", ""]
NOTHING_HELPS = "Nothing short of a smaller base or a larger card changes that."


def _table(need: Need) -> list[str]:
    rows = [
        f"  {name:<22}{part / GIB:8.2f}  {need.notes.get(name, '')}".rstrip()
        for name, part in need.parts.items()
    ]
    return [*rows, f"  {'total':<22}{need.total / GIB:8.2f}", ""]


def _fits(card: tuple[str, int], need: Need) -> str:
    name, size = card
    return f"It fits {name} ({size / GIB:.1f} GiB), with {(size - need.total) / GIB:.1f} GiB to spare."


def _verdict(settings: Settings, shape: Shape, card: tuple[str, int] | None, need: Need) -> list[str]:
    if card is None:
        return NO_CARD
    name, size = card
    # A budget of "auto" leaves the margin itself, and the small tensors counted here lie in it.
    usable = size if settings.activation_budget == "auto" else size * (1 - activation_plan.MARGIN)
    if need.total <= usable:
        return [_fits(card, need), ""]
    flags = fitting_flags(settings, shape, size)
    head = f"It does not fit {name} ({size / GIB:.1f} GiB): {(need.total - usable) / GIB:.1f} GiB too much."
    if flags is None:
        return [head, NOTHING_HELPS, ""]
    return [head, "This fits:", *(f"  {flag}" for flag in flags), ""]


def _course(settings: Settings, speed: float | None) -> list[str]:
    lines = [f"An optimizer step sees {settings.step_tokens:,} tokens."]
    steps = settings.max_steps
    total = steps * settings.step_tokens
    characters = corpus_characters(settings.corpus) if settings.corpus else None
    if steps > 0 and characters:
        lines.append(
            f"{steps:,} steps see {total:,} tokens, about {total / characters:.1f} times the corpus "
            f"({characters:,} characters, at one token each)."
        )
    if steps > 0 and speed:
        hours = total / speed / 3600
        time = f"{hours:.1f} hours" if hours >= 1 else f"{hours * 60:.0f} minutes"
        lines.append(f"At {speed:,.0f} tokens/s the run takes {time}, validation and merging aside.")
    elif steps > 0:
        lines.append("How long it takes shows after a first run, or give --tokens_per_second.")
    return [*lines, ""]


def _disk(needed: Mapping[str, Mapping[str, int]]) -> list[str]:
    lines = ["On disk (GiB)"]
    frees = {folder: free_space(folder) for folder in needed}
    for folder, parts in needed.items():
        total, (place, free) = sum(parts.values()), frees[folder]
        # Folders of one disk share what is free there.
        sharing = sum(sum(needed[other].values()) for other in needed if same_disk(frees[other][0], place))
        verdict = "enough" if free > sharing else "NOT enough"
        lines += [f"  {name:<44}{size / GIB:8.2f}" for name, size in parts.items()]
        lines.append(f"  {f'in {folder}':<44}{total / GIB:8.2f}  {free / GIB:.1f} free there: {verdict}")
    return lines
