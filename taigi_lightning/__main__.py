"""python -m taigi_lightning COMMAND: the entry of every command, light until it knows which one."""

from __future__ import annotations

import importlib
import logging
import os
import sys

from taigi_lightning.cli.commands import COMMANDS, COMPLETION, TOOLS, usage
from taigi_lightning.errors import InputError
from taigi_lightning.signals import (
    StoppedBySignal,
    exit_at_once,
    handle_signals,
    raise_stopped,
    restore_signals,
)


def run(arguments: list[str]) -> None:
    """Run one command; heavy imports wait until here."""
    command, rest = arguments[0], arguments[1:]
    # It would tell every user that an optional download of faster CPU kernels is absent.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    from taigi_lightning.cli.config_errors import SuggestingParser
    from taigi_lightning.cli.config_locations import check_config_files
    from taigi_lightning.cli.shipped_configs import with_shipped_configs

    if command in TOOLS:
        from jsonargparse import auto_cli

        module, function, _ = TOOLS[command]
        target = getattr(importlib.import_module(module), function)
        prog = f"python -m taigi_lightning {command}"
        handle_signals(raise_stopped)
        auto_cli(target, args=rest, as_positional=True, prog=prog, parser_class=SuggestingParser)
        return
    if command == "predict" and not any(a in ("-c", "--config") or a.startswith("--config=") for a in rest):
        rest = ["--config", "configs/predict.yaml", *rest]
    rest, shipped = with_shipped_configs(rest)
    for path in shipped:
        print(f"Using the {path.name} that comes with the package: {path}", file=sys.stderr)
    if problem := check_config_files(rest):  # before seconds of imports
        print(f"error: {problem}", file=sys.stderr)
        sys.exit(2)
    # Read when torch starts: lets freed memory be used again whatever the sizes, so that less is reserved.
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    sys.argv[1:] = [command, *rest]
    if command == COMPLETION:
        from taigi_lightning.cli.completion import print_completion

        print_completion()
    else:
        from taigi_lightning.cli.lightning_cli import main as lightning_main

        handle_signals(raise_stopped)
        lightning_main()


def main() -> int:
    """Returns the exit code: 0, 1 for data that cannot be used, 2 for a command line that cannot.

    Raises:
        StoppedBySignal: what ran was stopped; Python then ends with 130 (Ctrl-C) or 143 (SIGTERM).
    """
    before = handle_signals(exit_at_once)
    try:
        return answer(sys.argv[1:])
    except StoppedBySignal:
        before.clear()
        handle_signals(exit_at_once)  # one more signal while Python cleans up leaves no traceback either
        raise
    finally:
        restore_signals(before)


def answer(arguments: list[str]) -> int:
    """Run one command line, and say in a paragraph what kept it from running; returns `main`'s exit codes."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage(), end="")
        return 0 if arguments else 2
    if arguments[0] not in (*COMMANDS, *TOOLS, COMPLETION):
        print(f"error: there is no command {arguments[0]!r}.\n\n{usage()}", end="", file=sys.stderr)
        return 2
    try:
        run(arguments)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except Exception as error:
        from taigi_lightning.cli.machine_errors import explain

        paragraph = explain(error)
        if paragraph is None:
            raise
        print(f"error: {paragraph}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
