"""What a run cannot watch is said before it starts, with what it can."""

import pytest

from taigi_lightning.errors import InputError
from taigi_lightning.planning.monitors import Measured, Watch, check_watch, chosen_mode

TEXTS = Measured(validates=True, questions=False, sources=("replay",), first=400, last=4000)
QUESTIONS = Measured(validates=True, questions=True)


@pytest.mark.parametrize(
    ("monitor", "mode", "wanted"),
    [
        ("step", "auto", "max"),
        (None, "auto", "max"),
        ("val/loss", "auto", "min"),
        ("val/loss/replay", "auto", "min"),
        ("val/accuracy", "auto", "max"),
        ("my/f1", "max", "max"),
    ],
)
def test_less_is_better_or_more_as_the_figure_has_it(monitor: str, mode: str, wanted: str) -> None:
    assert chosen_mode(monitor, mode) == wanted


@pytest.mark.parametrize(
    ("monitor", "mode"), [("my/f1", "auto"), ("train/mfu", "auto"), ("val/loss", "best")]
)
def test_a_mode_that_nobody_knows_is_asked_for(monitor: str, mode: str) -> None:
    with pytest.raises(InputError, match=r"checkpoint\.mode"):
        chosen_mode(monitor, mode)


@pytest.mark.parametrize(
    ("watch", "measured"),
    [
        (Watch("checkpoint", "val/loss"), TEXTS),
        (Watch("checkpoint", "val/loss/replay", "min"), TEXTS),
        (Watch("EarlyStopping", "val/accuracy", "max"), QUESTIONS),
        (Watch("EarlyStopping", "train/loss", "min"), Measured(validates=False, questions=False)),
        (Watch("EarlyStopping", "val/loss/any", "min"), Measured(True, False, None)),
    ],
)
def test_what_can_be_watched(watch: Watch, measured: Measured) -> None:
    check_watch(watch, measured, all_known=True)


@pytest.mark.parametrize(
    ("watch", "measured", "words"),
    [
        (Watch("checkpoint", "val_loss"), TEXTS, "Did you mean val/loss?"),
        (Watch("checkpoint", "loss"), TEXTS, "which nothing logs"),
        (Watch("checkpoint", "val/loss/wiki"), TEXTS, "Did you mean"),
        (Watch("checkpoint", "val/accuracy"), TEXTS, "only questions have"),
        (Watch("checkpoint", "val/loss", "max"), TEXTS, "Give it mode min"),
        (Watch("EarlyStopping", "val/accuracy", "min"), QUESTIONS, "Give it mode max"),
        (Watch("EarlyStopping", "val/loss"), Measured(False, False), "nothing is held out"),
        (
            Watch("EarlyStopping", "val/loss"),
            Measured(True, False, first=400, last=40),
            "ends after 40 micro-batches, before its first validation after 400",
        ),
    ],
)
def test_what_cannot_be_watched_is_said(watch: Watch, measured: Measured, words: str) -> None:
    with pytest.raises(InputError, match=words):
        check_watch(watch, measured, all_known=True)


def test_a_module_of_ones_own_may_log_anything() -> None:
    check_watch(Watch("checkpoint", "val/f1", "max"), TEXTS, all_known=False)
