"""Errors on the command line and in YAML, said so that the next try succeeds."""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Sequence
from contextlib import chdir
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from jsonargparse import ArgumentParser

from taigi_lightning.cli.config_locations import check_config_files, where
from taigi_lightning.cli.did_you_mean import did_you_mean, nearest
from taigi_lightning.cli.value_errors import wrong_value
from taigi_lightning.internals import parser_options, parser_positionals
from taigi_lightning.terminal import print_line
from taigi_lightning.windows import read_configs_as_utf8

UNKNOWN_KEY = re.compile(r"Option '([^']+)' is not accepted|does not accept option '([^']+)'")
NO_VALUE = re.compile(r"^argument (?:-\w/)?(--[\w.]+): expected (?:one|at least one) argument")
REQUIRED = re.compile(r"^the following arguments are required: (.+)")
NO_SECTION = re.compile(r"^Unexpected config:(?: (\w+):|\s*$)")
LINKED = re.compile(r'Linked "([\w.]+)" must be given via "([\w.]+)"')
BASE_CLASS = re.compile(
    r"class_path 'lightning\.(?:pytorch\.)?(?:\w+\.)*(Callback|LightningDataModule|Logger)'"
)
KNOWN_SUBCLASSES = re.compile(r",\s+known\s+subclasses:[^)]*\)")


class SuggestingParser(ArgumentParser):
    """A parser that names the place of a mistake and the nearest thing that would have been right."""

    # The parser that got the arguments, and that of the class or dataclass which refused a key of them, are
    # other objects than the one that reports the error.
    arguments: ClassVar[list[str]] = []
    # While it reads a config, jsonargparse stands in that file's folder; what was typed means another place.
    folder: ClassVar[Path] = Path()
    refusing: ClassVar[ArgumentParser | None] = None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """As jsonargparse's, but an option is written in full: `--trainer.max_step 4` is no way to write max_steps."""
        super().__init__(*arguments, **({"allow_abbrev": False} | options))

    def parse_args(self, args: Sequence[str] | None = None, *rest: Any, **options: Any) -> Any:  # type: ignore[override]
        """Parse as jsonargparse does, remembering what was typed."""
        if self.exit_on_error and getattr(self, "parent_parser", None) is None:
            SuggestingParser.arguments = list(sys.argv[1:] if args is None else args)
            SuggestingParser.folder = Path.cwd()
        read_configs_as_utf8()
        return super().parse_args(args, *rest, **options)

    def format_help(self, *formatter: Any) -> str:
        """Leave out which classes happen to be loaded; `--trainer.callbacks.help` and its like list a field's."""
        text: str = super().format_help(*formatter)
        return KNOWN_SUBCLASSES.sub(")", text)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Say in one paragraph what is wrong, and exit with 2."""
        if not self.exit_on_error:  # an inner parser; the outer one reports, with the inner one's message
            SuggestingParser.refusing = self
            super().error(message, ex)
        parser = getattr(ex, "subcommand_parser", None) or SuggestingParser.refusing or self
        SuggestingParser.refusing = None
        with chdir(SuggestingParser.folder):
            self.refuse(improve(message, self.arguments, parser), message)

    def refuse(self, sentence: str, reason: str) -> NoReturn:
        """Print the sentence and exit.

        Args:
            sentence: what the user reads.
            reason: what jsonargparse said.
        """
        print_line(f"error: {sentence}", error=True)
        sys.exit(2)


def improve(message: str, arguments: Sequence[str], parser: ArgumentParser) -> str:
    """Say again what jsonargparse said: with file and line, the nearest right key, and an example.

    Args:
        message: what jsonargparse would have printed.
        arguments: the command line without the program's name.
        parser: the one that refused: that of the command, or of a class or dataclass within its config.
    """
    if problem := check_config_files(arguments):
        return problem
    if message.startswith("unrecognized arguments:"):
        return _unknown_flags(message, parser)
    if match := UNKNOWN_KEY.search(message):
        return _unknown_key(match[1] or match[2], message, arguments, _keys(parser))
    if message.startswith("Parser key "):
        return wrong_value(message, arguments, parser_positionals(parser))
    return _wrong_use(message, arguments)


def _unknown_flags(message: str, parser: ArgumentParser) -> str:
    words = message.partition(":")[2].split()
    flags = [word.partition("=")[0] for word in words if word.startswith("-")]
    if not flags:
        written = (
            f"--config {words[0]}" if words[0].endswith((".yaml", ".yml")) else "--name value or --name=value"
        )
        return f"{words[0]!r} belongs to no option. An option is written {written}."
    given, keys = flags[0].lstrip("-"), _keys(parser)
    near = nearest(given, keys) or [key for key in keys if given and key.startswith(given)][:3]
    return f"There is no option {flags[0]}.{did_you_mean([f'--{key}' for key in near])}"


def _unknown_key(key: str, message: str, arguments: Sequence[str], known: Sequence[str]) -> str:
    place = where(key, arguments)
    if match := BASE_CLASS.search(message):
        option = {"Callback": "trainer.callbacks", "Logger": "trainer.logger"}.get(match[1], "data")
        return f"{key!r}{place} is set, but its class is not named. Name it first: --{option} CLASS, or class_path."
    near = nearest(key, known)
    if not near and known:
        leaves = sorted({name.partition(".")[0] for name in known})
        near_text = f" Known there: {', '.join(leaves[:12])}{', ...' if len(leaves) > 12 else ''}."
    else:
        near_text = did_you_mean(near)
    return f"There is no {key!r}{place}.{near_text}"


def _wrong_use(message: str, arguments: Sequence[str]) -> str:
    if match := LINKED.search(message):
        return f"{match[1]}{where(match[1], arguments)} follows from {match[2]}. Set that: --{match[2]}."
    if match := NO_SECTION.match(message):
        if not match[1]:
            return "--config wants the path of a YAML file after it, as in --config configs/cpt.yaml."
        place = where(match[1], arguments)
        return f"{match[1]}{place} holds no settings; indent them below it, or leave it out."
    if match := REQUIRED.match(message):
        no_data = "No data is named. Give a config, as in --config configs/cpt.yaml, or --data CPTDataModule."
        return (
            no_data if match[1].endswith(".data") else f"Missing: {match[1]}. --help shows what goes where."
        )
    match = NO_VALUE.match(message)
    if not match:
        return message
    following = [after for word, after in itertools.pairwise(arguments) if word == match[1]]
    joined = ""
    if following and following[0].startswith("-"):
        joined = f" A value that begins with - is joined: {match[1]}={following[0]}."
    return f"{match[1]} wants a value after it.{joined}"


def _keys(parser: ArgumentParser) -> list[str]:
    return [
        name for name in parser_options(parser) if name.rpartition(".")[2] not in ("help", "print_config")
    ]
