"""A plan as text for a person."""

from __future__ import annotations

from collections.abc import Sequence

from taigi_lightning.planning.memory import GIB
from taigi_lightning.planning.needs import Part
from taigi_lightning.planning.plan import Folder, Plan, Schedule
from taigi_lightning.terminal import joined


def render(plan: Plan) -> str:
    """The whole plan, sizes in GiB."""
    lines = [
        _headline(plan),
        "",
        _where(plan),
        *_table(plan.memory, plan.memory_total_bytes),
        "",
        *_verdict(plan),
        "",
        *([*_schedule(plan.schedule), ""] if plan.schedule else []),
        *([*plan.notes, ""] if plan.notes else []),
        *_disk(plan.disk),
    ]
    return joined(*lines).rstrip()


def _where(plan: Plan) -> str:
    """What the table's figures are of."""
    place = "In host memory" if plan.accelerator == "cpu" else "On the card"
    peak = "" if plan.command == "predict" else ", at the peak"
    least = "" if plan.card or plan.command == "predict" or plan.accelerator == "cpu" else ", at least"
    return f"{place}{peak}{least} (GiB)"


def _headline(plan: Plan) -> str:
    head = f"{plan.base}: {plan.parameters:,} parameters, {plan.quantization}"
    if plan.command == "predict":
        return f"{head}, {f'adapter r {plan.lora_rank}' if plan.lora_rank else 'no adapter'}, prediction"
    trained = f"LoRA r {plan.lora_rank}" if plan.lora_rank else "every weight trains"
    return f"{head}, {trained}, {plan.batch_size_rows} x {plan.max_length_tokens} tokens"


def _table(parts: Sequence[Part], total: int) -> list[str]:
    rows = [f"  {part.purpose:<22}{part.bytes / GIB:8.2f}  {part.note}".rstrip() for part in parts]
    return [*rows, f"  {'total':<22}{total / GIB:8.2f}"]


def _verdict(plan: Plan) -> list[str]:
    if plan.accelerator == "cpu":
        return ["trainer.accelerator is cpu: no card is needed."]
    if plan.card is None or plan.spare_bytes is None:
        return ["No NVIDIA card found here. Give one: --gpu_memory 16GiB"]
    memory = plan.card.memory_bytes / GIB
    taken = f", {plan.card.taken_bytes / GIB:.1f} of them taken now" if plan.card.taken_bytes else ""
    card = f"{plan.card.name} ({memory:.1f} GiB{taken})"
    if plan.fits:
        return [f"It fits {card}, with {plan.spare_bytes / GIB:.1f} GiB to spare."]
    head = f"It does not fit {card}{_host(plan)}: {-plan.spare_bytes / GIB:.1f} GiB too much on the card."
    if plan.spare_bytes >= 0:
        head = f"It fits {card}, but not the host{_host(plan)}: {_beyond_host(plan)}."
    if plan.host_memory_wanted_bytes is not None:
        head += f" With {plan.host_memory_wanted_bytes / GIB:.1f} GiB of host memory available it would fit."
    if plan.advice:
        more = plan.advice_host_bytes
        fitting = "This" if more is None else f"With {more / GIB:.1f} GiB of host memory available this"
        return [head, f"{fitting} fits:", *(f"  {flag}" for flag in plan.advice)]
    others = "a smaller base or a larger card"
    if plan.host_memory_wanted_bytes is not None:
        others = "more host memory, a smaller base or a larger card"
    return [head, f"Nothing short of {others} changes that."]


def _beyond_host(plan: Plan) -> str:
    """What of the host there is too little for."""
    if plan.host_memory_loading_bytes > plan.host_memory_total_bytes:
        return f"{plan.host_memory_loading_bytes / GIB:.1f} GiB of weights would wait there while they load"
    return f"{plan.host_memory_total_bytes / GIB:.1f} GiB would go there"


def _host(plan: Plan) -> str:
    """What of host memory there is to let what leaves the card wait, where that is known."""
    available, lockable = plan.host_memory_available_bytes, plan.host_memory_lockable_bytes
    said = [] if available is None else [f"{available / GIB:.1f} GiB of host memory available"]
    if lockable is not None:
        said.append(f"{lockable / GIB:.1f} GiB that may be page-locked (--pinned_memory)")
    return f" with {' and '.join(said)}" if said else ""


def _schedule(schedule: Schedule) -> list[str]:
    lines = [f"An optimizer step sees {schedule.step_tokens:,} tokens."]
    if schedule.steps is None:
        return lines
    if schedule.corpus_passes is not None:
        lines.append(
            f"{schedule.steps:,} steps see {schedule.run_tokens:,} tokens, about {schedule.corpus_passes:.1f} times "
            f"the corpus ({schedule.corpus_characters:,} characters, at one token each)."
        )
    if schedule.run_seconds is None:
        return [*lines, "How long it takes shows after a first run, or give --tokens_per_second."]
    hours = schedule.run_seconds / 3600
    time = f"{hours:.1f} hours" if hours >= 1 else f"{hours * 60:.0f} minutes"
    speed = f"At {schedule.tokens_per_second:,.0f} tokens/s"
    return [*lines, f"{speed} the run takes {time}, validation and merging aside."]


def _disk(folders: Sequence[Folder]) -> list[str]:
    lines = ["On disk (GiB)"] if folders else []
    for folder in folders:
        lines += [f"  {part.purpose:<44}{part.bytes / GIB:8.2f}" for part in folder.parts]
        verdict = "enough" if folder.enough else "NOT enough"
        total, free = folder.total_bytes / GIB, folder.free_bytes / GIB
        lines.append(f"  {f'in {folder.folder}':<44}{total:8.2f}  {free:.1f} free there: {verdict}")
    return lines
