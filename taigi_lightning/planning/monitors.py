"""What a run can watch, for its best checkpoint and to stop early: which figures there are, and which way is better."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from taigi_lightning.errors import InputError

Direction = Literal["min", "max"]

VALIDATED = {
    "val/loss": "min",
    "val/perplexity": "min",
    "val/accuracy": "max",
}  # and val/loss/SOURCE of a mixture
TRAINED = {
    "train/loss": "min",
    "train/grad_norm": None,
    "train/learning_rate": None,
    "train/tokens_per_second": None,
    "train/data_wait": None,
    "train/memory_gib": None,
    "train/mfu": None,
}
NEWEST = (None, "step", "epoch")  # monitors that keep the newest checkpoints, not the best
KEPT = 2  # of the newest checkpoints, for resuming, where others are kept as the best


@dataclass(frozen=True)
class Watch:
    """Something that waits for a figure.

    Args:
        name: what the config calls it, such as checkpoint or EarlyStopping.
        monitor: the figure's name.
        mode: the way that counts as better; "auto" is told by the figure.
    """

    name: str
    monitor: str
    mode: str = "auto"


@dataclass(frozen=True)
class Measured:
    """What a run measures on held-out data.

    Args:
        validates: whether anything is held out and looked at.
        questions: whether questions are among it, so that there is an accuracy.
        sources: where several are validated on, their names; None where they are not known yet.
        first: after how many the first validation comes, where that is known.
        last: with how many the run ends, where that is known.
        unit: what these two count.
    """

    validates: bool
    questions: bool
    sources: Sequence[str] | None = field(default=())
    first: float | None = None
    last: float | None = None
    unit: str = "micro-batches"


def source_names(sources: Sequence[str]) -> list[str]:
    """What each source is called in splits and metrics: its file or folder, its whole path where two are alike.

    >>> source_names(["data/cpt_corpus", "data/chat.jsonl"]), source_names(["a/train", "b/train"])
    (['cpt_corpus', 'chat'], ['a/train', 'b/train'])
    """
    names = [Path(source).name.partition(".")[0] or source for source in sources]
    return names if len(set(names)) == len(names) else list(sources)


def direction(monitor: str) -> Direction | None:
    """Which way a figure gets better; None for one that is not known here.

    >>> direction("val/accuracy"), direction("val/loss/replay"), direction("my/f1")
    ('max', 'min', None)
    """
    found = "min" if monitor.startswith("val/loss/") else ({**VALIDATED, **TRAINED}).get(monitor)
    return "max" if found == "max" else "min" if found == "min" else None


def chosen_mode(monitor: str | None, mode: str) -> Direction:
    """The mode of a checkpoint: as it was given, or as the figure wants it.

    Raises:
        InputError: the mode is neither, or the figure is not known and no mode says which way is better.
    """
    if mode in ("min", "max"):
        return "min" if mode == "min" else "max"
    if mode != "auto":
        raise InputError(f"checkpoint.mode is {mode}. Set it to min, max or auto.")
    if monitor in NEWEST:
        return "max"
    if (known := direction(str(monitor))) is None:
        raise InputError(
            f"checkpoint.monitor is {monitor}, of which it is not known here whether less is better. Give "
            "--checkpoint.mode min or max."
        )
    return known


def check_watch(watch: Watch, measured: Measured, *, all_known: bool) -> None:
    """Refuse to wait for a figure that never comes, or to take the worst for the best.

    Args:
        all_known: whether nothing but this package's own module logs.

    Raises:
        InputError: one of these.
    """
    name, monitor = watch.name, watch.monitor
    better = direction(monitor)
    if better is not None and watch.mode in ("min", "max") and watch.mode != better:
        raise InputError(
            f"{name} watches {monitor} with mode {watch.mode}, which takes the worst for the best. Give it mode "
            f"{better}."
        )
    if all_known:
        _check_known(name, monitor, measured)
    if not monitor.startswith("val/"):
        return
    if not measured.validates:
        raise InputError(
            f"{name} watches {monitor}, and nothing is held out to validate on. Hold something out "
            "(data.validation_split for texts, data.validation_fraction or data.validation_file for questions and "
            "conversations; trainer.limit_val_batches above 0), or leave it out."
        )
    if measured.first is not None and measured.last is not None and measured.first > measured.last:
        raise InputError(
            f"{name} watches {monitor}, and the run ends after {measured.last:,.0f} {measured.unit}, before its first "
            f"validation after {measured.first:,.0f}. Validate sooner: --trainer.val_check_interval, or "
            "--trainer.check_val_every_n_epoch."
        )


def _check_known(name: str, monitor: str, measured: Measured) -> None:
    known = {*TRAINED, "val/loss", "val/perplexity", "step", "epoch"}
    known |= {"val/accuracy"} if measured.questions else set()
    known |= {f"val/loss/{source}" for source in measured.sources or ()}
    if monitor in known or (measured.sources is None and monitor.startswith("val/loss/")):
        return
    if monitor == "val/accuracy":
        raise InputError(
            f"{name} watches val/accuracy, which only questions have, and these data are none. Give it val/loss."
        )
    near = get_close_matches(monitor.replace("_", "/"), sorted(known), n=1)
    meant = f" Did you mean {near[0]}?" if near else ""
    raise InputError(
        f"{name} watches {monitor}, which nothing logs.{meant} There are {', '.join(sorted(known))}."
    )
