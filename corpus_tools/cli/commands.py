"""The commands clean, preview and sample, and how they are called."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import fields as fields_of
from inspect import signature
from pathlib import Path
from typing import Any, Literal

from jsonargparse import auto_cli, set_parsing_settings
from jsonargparse.typing import NonNegativeInt, PositiveInt

from corpus_tools.cli.progress import progress
from corpus_tools.cli.usage_errors import Parser, config_fault
from corpus_tools.cli.warnings import warnings_of
from corpus_tools.cli.workers import executor, keep_freed_memory
from corpus_tools.documents import OptionalRule, OwnRule
from corpus_tools.errors import InputError, printable
from corpus_tools.options import CorpusOptions
from corpus_tools.windows import explain_windows

FLAGS = ("--convert_simplified", "--skip_bad_files")


def clean(
    source: str,
    output_dir: Path = Path("data/cpt_corpus"),
    workers: NonNegativeInt = 0,
    scheduler: str | None = None,
    **options: Any,
) -> None:
    """Clean raw article files into a corpus folder for training.

    Args:
        source: Folder or file: JSON lists, JSONL, CSV, TXT, SRT, VTT, Parquet, also with .gz or .zst; or a data set of
            the Hugging Face Hub, hf://OWNER/NAME[@REVISION][:SPLIT].
        output_dir: Folder for the corpus; an earlier corpus there is replaced at the very end.
        workers: Processes; 0 takes as many as there are cores. The result is the same.
        scheduler: Address of a Dask scheduler (tcp://...) to run on; needs the extra `cluster`.
        options: Those of `CorpusOptions`.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy's threads would spin for work that never comes
    keep_freed_memory()
    from corpus_tools.pipeline import build_corpus

    chosen = vars(CorpusOptions(**options))  # refused, if at all, before workers start
    with executor(workers, scheduler) as processes, progress() as show:
        report = build_corpus([source], output_dir, executor=processes, progress=show, **chosen)
    _summarise(report, output_dir)


def _summarise(report: Mapping[str, Any], output_dir: Path) -> None:
    rows, documents, kept = report["rows"], report["documents"], report["characters"]["kept"]
    print(f"{rows['read']:,} rows read, {rows['kept']:,} kept; {documents['total']:,} documents, ", end="")
    print(f"{kept:,} characters in {printable(str(output_dir))} (see report.html there)")
    for warning in warnings_of(report):
        print(printable(f"warning: {warning}"), file=sys.stderr)
    for name, reason in report["skipped_files"].items():
        print(printable(f"skipped {name}: {reason}"), file=sys.stderr)


def preview(
    file: Path,
    rows: Literal["auto", "window", "paragraph", "line"] = "auto",
    optional_rules: list[OptionalRule] | None = None,
    own_rules: list[OwnRule] | None = None,
    convert_simplified: bool = False,
    fields: dict[str, str] | None = None,
    limit: PositiveInt = 10,
) -> None:
    """Show what each rule would change in a file; nothing is written.

    Args:
        file: A file of any accepted format.
        rows: What a row is, as in clean.
        optional_rules: Rules that run only when named, as in clean.
        own_rules: Your own rules, as in clean.
        convert_simplified: Convert articles that are themselves Simplified Chinese, as in clean.
        fields: The file's names for text, title, author and paragraph_id, where they differ.
        limit: Changed lines shown of each rule.
    """
    from rich.console import Console

    from corpus_tools.report.preview import show_changes
    from corpus_tools.steps.preview_file import changes_of

    if not file.is_file():
        raise InputError(f"{file} is no file; give one of the raw files.")
    extra = (optional_rules or (), own_rules or (), convert_simplified)
    changes = changes_of(file, fields or {}, rows, *extra)
    show_changes(changes, limit, Console(highlight=False))


def _with_values(arguments: list[str]) -> list[str]:
    """A flag may stand without its `true`."""
    return [
        f"{argument}=true"
        if argument in FLAGS and following.lower() not in ("true", "false", "yes", "no")
        else argument
        for argument, following in zip(arguments, [*arguments[1:], ""], strict=False)
    ]


def run(arguments: list[str]) -> int:
    """Run a command line; 0, or 1 for unusable data (usage errors leave with 2)."""
    commands: dict[str, Any] = {"clean": clean, "preview": preview}
    if arguments[:1] not in (["clean"], ["preview"]):  # its words take a while to load
        from corpus_tools.sample.write import write_sample

        commands["sample"] = write_sample
    completing = arguments[:1] == ["--print_completion"]
    if completing:  # the script is for the command that pip installs
        set_parsing_settings(add_print_completion_argument=True)
    options = {name for command in commands.values() for name in signature(command).parameters} - {"options"}
    options |= {field.name for field in fields_of(CorpusOptions)}
    Parser.names = (*commands, *(f"--{name}" for name in sorted(options)))
    Parser.arguments = tuple(arguments)
    if fault := config_fault(arguments):
        print(f"error: {printable(fault)} See corpus_tools --help.", file=sys.stderr)
        return 2
    try:
        auto_cli(
            commands,
            args=_with_values(arguments),
            prog="corpus-tools" if completing else "corpus_tools",
            as_positional=True,
            parser_class=Parser,
            allow_abbrev=False,
        )
    except InputError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return 1
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        reason = error.strerror or str(error)
        advice = explain_windows(error) or "give a path that can be used"
        print(f"error: {printable(place + reason)}; {advice}.", file=sys.stderr)
        return 1
    return 0
