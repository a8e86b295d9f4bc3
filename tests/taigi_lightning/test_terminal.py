"""No name of a file, title or setting steers the terminal, by whichever way a sentence leaves the program."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from io import StringIO

import pytest
from lightning.pytorch.utilities import rank_zero_info
from rich.table import Table

from taigi_lightning import terminal
from taigi_lightning.__main__ import answer
from taigi_lightning.cli.config_errors import SuggestingParser
from taigi_lightning.evaluation.generation import _Streamed
from taigi_lightning.terminal import console, escape_messages, joined, print_line, print_text, print_written
from taigi_lightning.training.module import CausalLMModule

# A colour, a deleted line, a bell, a C1 introducer, overrides and isolates of direction, no width, a line's end.
STEERING = [
    "\x1b[31m",
    "\x1b[2K\r",
    "\x07",
    "\x9b2K",
    "\u202e",
    "\u2066",
    "\u2069",
    "\u200b",
    "\u2028",
    "\x00",
]
NAME = "".join(f"市{one}" for one in STEERING) + "[bold]:smile:[/]"


@pytest.fixture(autouse=True)
def escaped(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What `main` sets for the process, for one test."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    factory = logging.getLogRecordFactory()
    escape_messages()
    yield
    logging.setLogRecordFactory(factory)


def steering(text: str) -> list[str]:
    """The characters of a text that could steer a terminal, but for ends of lines."""
    return [c for c in text if not c.isprintable() and c != "\n"]


def log(say: Callable[[str], None], name: str) -> str:
    """What a logger's handler is given."""
    written = StringIO()
    handler = logging.StreamHandler(written)
    loggers = [
        logging.getLogger(one) for one in ("taigi_lightning.tasks", "lightning.pytorch.utilities.rank_zero")
    ]
    for logger in loggers:
        logger.addHandler(handler)
    say(name)
    for logger in loggers:
        logger.removeHandler(handler)
    return written.getvalue()


def raised(name: str) -> None:
    """A bug's traceback."""
    try:
        raise KeyError("x") from RuntimeError(name)
    except KeyError:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]


def table(name: str) -> None:
    """A name in each place of a table."""
    shown = Table(name, title=name, caption=name)
    shown.add_row(name)
    console().print(shown)


def parsed(name: str) -> None:
    """A parser's refusals."""
    parser = SuggestingParser()
    parser.add_argument("--steps", type=int)
    for arguments in (["--steps", name], [f"--{name}", "1"], [name]):
        with pytest.raises(SystemExit):
            parser.parse_args(arguments)


def refused(name: str) -> None:
    """A command's refusals."""
    assert answer([name]) == 2
    assert answer(["score", f"{name.replace(chr(0), '')}.csv", "answers.csv"]) == 1


def warned(name: str) -> None:
    """A warning of this package's, as Python shows it where pytest does not catch it."""
    warnings.showwarning(UserWarning(name), UserWarning, "taigi_lightning/a.py", 1)


WAYS: dict[str, Callable[[str], None]] = {
    "print_line": print_line,
    "to standard error": lambda name: print_line(name, error=True),
    "print_text": print_text,
    "table": table,
    "sentence on a console": lambda name: console(error=True).print(name),
    "traceback": raised,
    "parser": parsed,
    "command": refused,
    "module": lambda name: CausalLMModule.print(_Alone(), name),  # type: ignore[arg-type]
    "warning": warned,
}


class _Alone:
    """A module without a trainer, to Lightning's `print`."""

    trainer = type("Trainer", (), {"is_global_zero": True, "progress_bar_callback": None})


@pytest.mark.parametrize("way", WAYS)
def test_each_way_out_escapes(way: str, capsys: pytest.CaptureFixture[str]) -> None:
    WAYS[way](NAME)
    out, err = capsys.readouterr()
    said = " ".join((out + err).split())
    assert "市" in said
    assert not steering(out + err)
    if way != "table":  # whose lines are folded
        assert r"\x1b[31m" in said and r"\u202e" in said and "[bold]:smile:[/]" in said


@pytest.mark.parametrize("say", [logging.getLogger("taigi_lightning.tasks").warning, rank_zero_info])
def test_log_records_are_escaped(say: Callable[[str], None]) -> None:
    said = log(say, NAME + "\nerror: forged")
    assert r"\x1b[31m" in said and not steering(said)
    assert "\n    error: forged" in said


def test_a_name_with_a_line_break_forges_no_line() -> None:
    name = "models/a\nAdapter: elsewhere"
    assert len(joined(f"into {name}", "4 steps").splitlines()) == 2


def test_what_a_model_writes_is_left_alone_in_a_pipe_and_escaped_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    print_written("a\x1b[2K\n")
    assert capsys.readouterr().out == "a\x1b[2K\n"
    monkeypatch.setattr(terminal.sys.stdout, "isatty", lambda: True)
    _Streamed.on_finalized_text(object(), "a\x1b[2K\n", stream_end=True)
    assert capsys.readouterr().out == "a\\x1b[2K\n\n"
