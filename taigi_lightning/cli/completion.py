"""`taigi-lightning --print_completion shtab-bash`: a script from which a shell completes commands and options."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from jsonargparse import set_parsing_settings

from taigi_lightning.cli.commands import PROGRAM, TOOLS
from taigi_lightning.cli.config_errors import SuggestingParser
from taigi_lightning.cli.lightning_cli import StageParser, TaigiCLI, main


class UnlinkedParser(StageParser):
    """Leaves links out: their descriptions would stand among the options, where bash tries to run them."""

    def link_arguments(self, *arguments: Any, **options: Any) -> None:
        """Nothing is parsed, so nothing needs a link."""


class CompletionCLI(TaigiCLI):
    """Knows the commands that are plain functions too."""

    def setup_parser(self, *arguments: Any, **options: Any) -> None:
        """Add them beside Lightning's own."""
        super().setup_parser(*arguments, **options)
        for name, (module, function, text) in TOOLS.items():
            tool = SuggestingParser()
            tool.add_function_arguments(getattr(import_module(module), function), as_positional=True)
            self.parser.commands.add_subcommand(name, tool, help=text)  # type: ignore[attr-defined]


def print_completion() -> None:
    """Let jsonargparse print the script that `sys.argv` asks for, for the command that pip installs, and exit."""
    set_parsing_settings(add_print_completion_argument=True)
    main(CompletionCLI, UnlinkedParser, PROGRAM)
