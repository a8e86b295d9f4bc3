"""Each pattern by which jsonargparse's refusals are told apart, against what the installed jsonargparse says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import pytest
import torch
from jsonargparse import ArgumentParser, set_parsing_settings
from jsonargparse.typing import PositiveInt
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import OptimizerCallable

from taigi_lightning.cli import class_errors, config_errors, value_errors
from taigi_lightning.cli.config_errors import SuggestingParser


@dataclass
class Lora:
    """An adapter."""

    r: PositiveInt = 16


class Model:
    """A model with a field of each kind."""

    def __init__(
        self,
        base: str = "b",
        lora: Lora | None = None,
        steps: int = 0,
        kind: Literal["a", "b"] = "a",
        weights: int | dict[str, float] = 1,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        callbacks: list[Callback] | Callback | None = None,
        only: Callback | None = None,
    ) -> None: ...


class First:
    """Holds a class whose name another has too."""

    class Twin(Callback): ...


class Second:
    """Holds the other."""

    class Twin(Callback): ...


# The pattern by its module and name, and a command line whose refusal it reads.
READS: list[tuple[Any, str, list[str]]] = [
    (config_errors, "UNKNOWN_KEY", ["--model.lora.rr", "3"]),
    (config_errors, "NO_VALUE", ["--model.steps"]),
    (config_errors, "REQUIRED", []),
    (config_errors, "NO_SECTION", ["--config", ""]),
    (config_errors, "LINKED", ["--copy", "c"]),
    (config_errors, "BASE_CLASS", ["--model.only.patience", "3"]),
    (value_errors, "AMBIGUOUS", ["--model.only", "Twin"]),
    (value_errors, "KEYS", ["--model.steps", "x"]),
    (value_errors, "EXPECTED", ["--model.kind", "x"]),
    (value_errors, "VALUE", ["--model.steps", "x"]),
    (value_errors, "RESTRICTED", ["--size", "-3"]),
    (value_errors, "SUBTYPE", ["--model.lora", "64"]),
    (value_errors, "ITEM", ["--model.weights", "{a: x}"]),
    (class_errors, "NOT_THERE", ["--model.callbacks", "Nonesuch"]),
    (class_errors, "NOT_CALLABLE", ["--model.optimizer", "torch.nn.Linear"]),
    (class_errors, "DENIED", ["--model.callbacks", "os.system"]),
    (class_errors, "OTHER_KIND", ["--model.callbacks", "torch.nn.Linear"]),
    (class_errors, "NEEDS", ["--model.callbacks", "lightning.pytorch.callbacks.EarlyStopping"]),
    (class_errors, "INSIDE", ["--model.callbacks", "torch.nn.Linear"]),
    (class_errors, "KIND", ["--model.callbacks", "torch.nn.Linear"]),
]


@pytest.fixture
def refusals(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What the parser said before it was said again."""
    found: list[str] = []

    def improve(message: str, *_: Any) -> str:
        found.append(message)
        return message

    monkeypatch.setattr(config_errors, "improve", improve)
    set_parsing_settings(import_path_denylist=["os", "subprocess"], instantiate_subclass_spec_in_any=False)
    yield found
    set_parsing_settings(import_path_denylist=[])


@pytest.mark.parametrize(("module", "name", "arguments"), READS, ids=[name for _, name, _ in READS])
def test_the_pattern_finds_what_it_reads(
    module: Any, name: str, arguments: list[str], refusals: list[str]
) -> None:
    parser = SuggestingParser()
    parser.add_argument("--config", action="config")
    parser.add_argument("--size", type=PositiveInt, default=1)
    parser.add_argument("--copy", default="b")
    parser.add_argument("--needed", required=not arguments)
    parser.add_class_arguments(Model, "model")
    parser.link_arguments("model.base", "copy")
    with pytest.raises(SystemExit):
        parser.parse_args(arguments)
    pattern: re.Pattern[str] = getattr(module, name)
    assert pattern.search(refusals[-1]), refusals[-1]


def test_help_names_the_classes_that_are_left_out() -> None:
    parser = SuggestingParser()
    parser.add_class_arguments(Model, "model")
    assert config_errors.KNOWN_SUBCLASSES.search(ArgumentParser.format_help(parser))
    assert "known subclasses" not in " ".join(parser.format_help().split())
