"""Help, plans and refusals in a second: a command line is parsed over outlines before anything heavy is imported."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
import warnings
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from taigi_lightning.cli.commands import TOOLS
from taigi_lightning.cli.config_errors import SuggestingParser
from taigi_lightning.cli.config_locations import config_files
from taigi_lightning.cli.outline_source import OutlineCalledError
from taigi_lightning.cli.outlines import Outline, outlined
from taigi_lightning.cli.own_classes import names_own_model
from taigi_lightning.cli.question_checks import check_questions
from taigi_lightning.errors import InputError
from taigi_lightning.planning.base_files import (
    check_settings,
    check_tokenizer_settings,
    is_hub_name,
    read_settings,
)
from taigi_lightning.terminal import print_line
from taigi_lightning.windows import config_text

# Where the short names of classes are looked for.
FAMILIES = (
    "taigi_lightning",
    "taigi_lightning.evaluation.prediction_writer",
    "lightning.pytorch.callbacks",
    "lightning.pytorch.loggers",
    "lightning.pytorch.profilers",
    "lightning.pytorch.plugins",
    "lightning.pytorch.strategies",
    "torch.optim",
    "torch.optim.lr_scheduler",
    "bitsandbytes.optim",
)
FELL_BACK = "The command line could not be read ahead"  # the tests make an error of this warning
CLASS_NAME = re.compile(r"(?:[:=,\[-]\s*|^)[\"']?([A-Z]\w+)[\"']?\s*(?=$|[#,}\]])", re.MULTILINE)
CLASS_PATH = re.compile(
    r"(?:class_path[=:]? ?'|Got value: |Import path |import path string: )([A-Za-z_][\w.]+)"
)


class Refused(SystemExit):
    """The parser's refusal; `certain` where no other parser could judge differently."""

    def __init__(self, sentence: str, certain: bool) -> None:
        super().__init__(2)
        self.sentence = sentence
        self.certain = certain


class Parsed(BaseException):
    """Carries the config out of a command line interface that would go on to build what it names."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config


def preflight(command: str, rest: list[str]) -> Any:
    """Parse a command line without PyTorch, Lightning or Transformers.

    Args:
        command: one of `COMMANDS` or `TOOLS`.
        rest: what follows it; `sys.argv` holds both.

    Returns:
        What was parsed, or None where only the real parser can tell.

    Raises:
        SystemExit: help was printed, or a refusal (2).
        InputError: the config cannot run.
    """
    # A printed config's defaults must be the real ones, and a module of the user's own is real.
    if "--print_config" in " ".join(rest) or "torch" in sys.modules or names_own_model(rest):
        return None
    try:
        with outlined():
            _parse(command, rest)
    except Parsed as parsed:
        _check_cached_base(parsed.config.model.base)
        if command != "plan":
            check_questions(command, parsed.config)
        return parsed.config
    except Refused as refused:
        if refused.certain:
            print_line(f"error: {refused.sentence}", error=True)
            raise
    except InputError:
        raise
    except Exception as error:  # whatever outlines could not stand for: the real classes decide
        if command in TOOLS and isinstance(
            error, OutlineCalledError
        ):  # all was parsed; the function itself began
            return None
        # Python shows none of this category unless asked.
        warnings.warn(f"{FELL_BACK}: {error!r}", ImportWarning, stacklevel=2)
        return None
    return None


def _parse(command: str, rest: list[str]) -> None:
    if command in TOOLS:
        from jsonargparse import auto_cli

        module, name, _ = TOOLS[command]
        target = getattr(importlib.import_module(module), name)
        prog = f"python -m taigi_lightning {command}"
        auto_cli(target, args=rest, as_positional=True, prog=prog, parser_class=_ToolParser)
        return
    from taigi_lightning.cli.lightning_cli import StageParser, TaigiCLI, main
    from taigi_lightning.cli.run_checks import check_files
    from taigi_lightning.planning.base_files import check_base

    class EarlyParser(_Early, StageParser):
        """Refuses by an exception."""

    class EarlyCLI(TaigiCLI):
        """Ends when all is parsed."""

        def plan(self, config: Any) -> NoReturn:
            if Path(config.model.base).exists():  # an earlier stage of the plan may be to write it
                check_base(config.model.base)
            raise Parsed(config)

        def resolve_checkpoint(self, config: Any) -> None:
            with suppress(OutlineCalledError):  # what a checkpoint holds is read when PyTorch is there
                super().resolve_checkpoint(config)

        def parse_arguments(self, parser: Any, args: Any) -> None:
            super().parse_arguments(parser, args)
            config = self.config[self.config.subcommand]
            check_files(self.config.subcommand, config)
            raise Parsed(config)

    _know_classes([*rest, *(config_text(Path(file)) for file in config_files(rest))])
    main(EarlyCLI, EarlyParser)


def _check_cached_base(base: str) -> None:
    """Refuse a base of the Hub by what the cache holds of it, as a folder is refused."""
    if Path(base).is_dir() or not is_hub_name(base):
        return
    from huggingface_hub import try_to_load_from_cache

    checks = {"config.json": check_settings, "tokenizer_config.json": check_tokenizer_settings}
    for name, check in checks.items():
        found = try_to_load_from_cache(base, name)
        if isinstance(found, str):
            with outlined():
                check(base, read_settings(Path(found)))


def _know_classes(texts: Iterable[str]) -> None:
    """Let classes come into being that texts name without their module, since a parser knows only loaded ones."""
    for name in {name for text in texts for name in CLASS_NAME.findall(text)}:
        for family in FAMILIES:
            getattr(importlib.import_module(family), name, None)


class _Early:
    """A parser that hands its refusal on, with a word on whether it could be wrong."""

    def refuse(self, sentence: str, reason: str) -> NoReturn:
        """Raise it."""
        raise Refused(sentence, _is_certain(reason))


class _ToolParser(_Early, SuggestingParser):
    """The parser of a command that is a plain function."""


def _is_certain(reason: str) -> bool:
    """Whether outlines know enough for this refusal.

    They know every option and its type, but not what a class takes that hands on `**options`, nor names that a
    module makes as it runs.
    """
    return all(_is_settled(path) for path in CLASS_PATH.findall(reason))


def _is_settled(path: str) -> bool:
    module, _, name = path.rpartition(".")
    if not module:
        return True
    try:
        outline = importlib.import_module(module)
    except ImportError:
        return True
    found = getattr(outline, name, None)
    if found is None:
        return not isinstance(outline, Outline) or not outline.is_dynamic()
    kinds = [parameter.kind for parameter in inspect.signature(found).parameters.values()]
    return inspect.Parameter.VAR_KEYWORD not in kinds
