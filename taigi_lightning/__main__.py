"""python -m taigi_lightning COMMAND: the entry of every command, light until it knows which one."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from taigi_lightning.cli.commands import COMMANDS, COMPLETION, PROGRAM, TOOLS, usage, with_flags
from taigi_lightning.cli.did_you_mean import did_you_mean, nearest
from taigi_lightning.errors import InputError
from taigi_lightning.signals import (
    exit_at_once,
    handle_signals,
    raise_stopped,
    restore_signals,
    wait_when_closed,
)
from taigi_lightning.terminal import escape_messages, print_line, print_text
from taigi_lightning.windows import print_what_streams_lack


def run(arguments: list[str]) -> None:
    """Run one command; heavy imports wait until here."""
    command, rest = arguments[0], arguments[1:]
    # It would tell every user that an optional download of faster CPU kernels is absent.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    rest = _with_configs(command, rest) if command in COMMANDS else with_flags(rest)
    sys.argv[1:] = [command, *rest]
    if command == COMPLETION:
        from taigi_lightning.cli.completion import print_completion

        print_completion()
        return
    from taigi_lightning.cli.config_locations import check_values
    from taigi_lightning.cli.preflight import preflight

    if problem := check_values(rest):
        print_line(f"error: {problem}", error=True)
        sys.exit(2)
    config = preflight(command, rest)
    if command in TOOLS:
        run_tool(command, rest)
    elif command == "plan" and config is not None:
        from taigi_lightning.planning.command import print_plan

        print_plan(config.as_dict())
    else:
        run_stage(command, config)


def _with_configs(command: str, rest: list[str]) -> list[str]:
    """The arguments with the configs that the command line means; exits with 2 where one cannot be read."""
    from taigi_lightning.cli.config_locations import check_config_files
    from taigi_lightning.cli.shipped_configs import with_shipped_configs

    if command == "predict" and not any(a in ("-c", "--config") or a.startswith("--config=") for a in rest):
        rest = ["--config", "configs/predict.yaml", *rest]
    rest, shipped = with_shipped_configs(rest)
    for path in shipped:
        print_line(f"Using the {path.name} that comes with the package: {path}", error=True)
    if problem := check_config_files(rest):
        print_line(f"error: {problem}", error=True)
        sys.exit(2)
    return rest


def run_tool(command: str, rest: list[str]) -> None:
    """Run a command that is a plain function."""
    from jsonargparse import auto_cli

    from taigi_lightning.cli.config_errors import SuggestingParser

    module, function, _ = TOOLS[command]
    target = getattr(importlib.import_module(module), function)
    prog = f"python -m taigi_lightning {command}"
    handle_signals(raise_stopped)
    auto_cli(target, args=rest, as_positional=True, prog=prog, parser_class=SuggestingParser)


def run_stage(command: str, config: Any) -> None:
    """Run one of Lightning's commands.

    Args:
        command: its name.
        config: what was parsed before, if it was, to say what is about to load.
    """
    # Read when torch starts: lets freed memory be used again whatever the sizes, so that less is reserved.
    if (
        sys.platform != "win32"
    ):  # whose segments cannot expand: PyTorch would warn, and `auto` leaves more free there
        os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    if config is not None:
        folder = config.trainer.default_root_dir or "."
        print_line(f"{command}: {config.model.base} into {folder}; loading PyTorch", error=True, flush=True)
    from taigi_lightning.cli.lightning_cli import main as lightning_main

    handle_signals(raise_stopped)
    lightning_main()


def main(ends_process: bool = False) -> int:
    """Returns the exit code: 0, 1 for data that cannot be used, 2 for a command line that cannot.

    Args:
        ends_process: whether the process ends with the command. A signal that comes while Python cleans up, which
            takes PyTorch a while, then leaves no traceback either.

    Raises:
        StoppedBySignal: what ran was stopped; Python then ends with 130 (Ctrl-C), 143 (SIGTERM) or 149 (SIGBREAK).
    """
    print_what_streams_lack()
    escape_messages()
    wait_when_closed()
    before = handle_signals(exit_at_once)
    try:
        return answer(sys.argv[1:])
    finally:
        if ends_process:
            handle_signals(exit_at_once)
        else:
            restore_signals(before)


def answer(arguments: list[str]) -> int:
    """Run one command line, and say in a paragraph what kept it from running; returns `main`'s exit codes."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print_text(usage(), end="")
        return 0 if arguments else 2
    if arguments[0] == "--version":
        try:
            print_line(f"{PROGRAM} {version(PROGRAM)}")
        except PackageNotFoundError:
            print_line(f"{PROGRAM} from source")
        return 0
    if arguments[0] not in (*COMMANDS, *TOOLS, COMPLETION):
        near = did_you_mean(nearest(arguments[0], [*COMMANDS, *TOOLS]))
        known = ", ".join([*COMMANDS, *TOOLS])
        print_line(
            f"error: there is no command {arguments[0]!r}.{near} The command comes first: {known}; "
            "--help says what each does.",
            error=True,
        )
        return 2
    try:
        run(arguments)
    except InputError as error:
        print_line(f"error: {error}", error=True)
        return 1
    except Exception as error:
        from taigi_lightning.cli.machine_errors import explain

        paragraph = explain(error)
        if paragraph is None:
            raise
        print_line(f"error: {paragraph}", error=True)
        return 1
    return 0


def process() -> int:
    """The command as a process of its own; see `main`."""
    return main(ends_process=True)


if __name__ == "__main__":
    sys.exit(process())
