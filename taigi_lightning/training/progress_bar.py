"""How far a run is: one line on a terminal, a line now and then in a log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ProgressBar
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.table import Column
from rich.text import Text

from taigi_lightning.terminal import console, print_line

SPEED_WINDOW = 3600.0  # seconds of steps from which the time left is estimated: one step may take a minute
LOG_LINES = 20  # over a run without a terminal
FIGURES = {  # in the order shown: a metric's format
    "train/loss": "loss {:.3f}",
    "train/tokens_per_second": "{:,.0f} tokens/s",
    "train/memory_gib": "{:.1f} GiB",
}
HELD_OUT = {"val/loss": "val {:.3f}", "val/accuracy": "correct {:.0%}"}  # where the terminal is wide enough
WIDE = 80


def figures(metrics: Mapping[str, float], width: int = WIDE) -> list[str]:
    """The metrics worth a look, in words, as many as fit a line of `width` columns.

    >>> figures({"train/tokens_per_second": 9290.4, "train/loss": 2.31, "val/loss": 2.2, "v_num": 3}, 60)
    ['loss 2.310', '9,290 tokens/s']
    """
    shown = FIGURES | (HELD_OUT if width >= WIDE else {})
    return [form.format(float(metrics[name])) for name, form in shown.items() if name in metrics]


def time_left(task: Task) -> str:
    """`1:02:03 left`, or nothing while it cannot be told."""
    if task.time_remaining is None or task.finished:
        return ""
    minutes, seconds = divmod(int(task.time_remaining), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02} left"


class _Count(ProgressColumn):
    def render(self, task: Task) -> Text:
        of = f"/{task.total:,.0f}" if task.total is not None else ""
        return Text(f"{task.description} {task.completed:,.0f}{of}")


class _TimeLeft(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(time_left(task), style="dim")


class StepProgress(ProgressBar):
    """Optimizer steps with loss, tokens/s, memory and the time left; a second bar while validating.

    Where there is no terminal, as in a batch job's log, a line of text for every twentieth of the run.
    """

    def __init__(self) -> None:
        super().__init__()
        self.is_enabled = True
        self._bars: Progress | None = None
        self._steps: TaskID | None = None
        self._batches: TaskID | None = None
        self._step = 0

    def enable(self) -> None:
        """Show it; the first rank does."""
        self.is_enabled = True

    def disable(self) -> None:
        """Show nothing; the other ranks do not."""
        self.is_enabled = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin where the run begins, or goes on."""
        self._step = trainer.global_step
        total = trainer.max_steps if trainer.max_steps > 0 else trainer.estimated_stepping_batches
        known = None if total == float("inf") else total
        self._steps = self._open().add_task("step", total=known, completed=self._step, figures="")

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Show an optimizer step; a micro-batch alone changes nothing."""
        if trainer.global_step == self._step or self._bars is None or self._steps is None:
            return
        self._step = trainer.global_step
        terminal = self._bars.console.is_terminal
        width = self._bars.console.width if terminal else WIDE
        shown = figures(trainer.progress_bar_metrics, width)
        self._bars.update(self._steps, completed=self._step, figures=" ".join(shown))
        task = self._bars.tasks[self._bars.task_ids.index(self._steps)]
        if terminal or not self.is_enabled:
            return
        if not self._step % max(1, int(task.total or 0) // LOG_LINES) or self._step == task.total:
            of = f" of {task.total:,.0f}" if task.total else ""
            words = [word for word in (*shown, time_left(task)) if word]
            print_line(f"step {self._step:,}{of}: {', '.join(words)}", flush=True)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the last state standing."""
        self._close()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Give the terminal back."""
        self._close()

    # ---- validation, test, prediction: batches, in a bar that goes away at the end ----------------

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Count batches, but for Lightning's two of a rehearsal."""
        if not trainer.sanity_checking:
            self._begin("validation", sum(trainer.num_val_batches))

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Count batches."""
        self._begin("test", sum(trainer.num_test_batches))

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Count batches."""
        self._begin("prediction", sum(trainer.num_predict_batches))

    def _begin(self, name: str, total: float) -> None:
        self._batches = self._open().add_task(name, total=total, figures="")

    def _advance(self, *_: Any, **__: Any) -> None:
        if self._bars is not None and self._batches is not None:
            self._bars.advance(self._batches)

    def _finish(self, *_: Any, **__: Any) -> None:
        if self._bars is not None and self._batches is not None:
            self._bars.remove_task(self._batches)
            self._batches = None
            if self._steps is None:
                self._close()

    on_validation_batch_end = on_test_batch_end = on_predict_batch_end = _advance
    on_validation_end = on_test_end = on_predict_end = _finish

    def _open(self) -> Progress:
        if self._bars is None:
            screen = console()
            self._bars = Progress(
                _Count(table_column=Column(no_wrap=True)),
                BarColumn(bar_width=None, table_column=Column(ratio=1)),
                TextColumn("{task.fields[figures]}", table_column=Column(no_wrap=True)),
                _TimeLeft(table_column=Column(no_wrap=True)),
                console=screen,
                expand=True,
                speed_estimate_period=SPEED_WINDOW,
                disable=not self.is_enabled or not screen.is_terminal,
            )
            self._bars.start()
        return self._bars

    def _close(self) -> None:
        if self._bars is not None:
            self._bars.stop()
        self._bars = self._steps = self._batches = None
