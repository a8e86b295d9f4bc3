"""Which folders a corpus may be written into: a new or empty one, or one that holds an earlier corpus and no more."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from corpus_tools.errors import InputError
from corpus_tools.windows import path_problem

WHOLE = ("dropped.parquet", "report.json", "report.html", "README.md")
_DATA = re.compile(r"(train|validation)-\d{5}-of-\d{5}\.(parquet|jsonl)")


def check_output_folder(output_dir: Path, sources: Sequence[Path]) -> None:
    """Refuse a folder in which writing a corpus would touch what is not a corpus.

    Raises:
        InputError: The folder is, holds or lies in a source, holds files that no run wrote, or has a name or a length
            that Windows does not take.
    """
    if str(output_dir) == ".":
        raise InputError("the output folder is the current one; give a folder of its own with --output_dir.")
    if problem := path_problem(output_dir):
        raise InputError(f"the output folder cannot be made: {problem}.")
    folder = output_dir.resolve()
    for source in map(Path.resolve, sources):
        if folder == source or source in folder.parents:
            raise InputError(
                f"the output folder {output_dir} is or lies in the source {source}, "
                "which the next run would read as input; give another --output_dir."
            )
        if folder in source.parents:
            raise InputError(
                f"the output folder {output_dir} holds the source {source}; give another --output_dir."
            )
    foreign = _foreign_files(output_dir)
    if foreign:
        raise InputError(
            f"{output_dir} holds {foreign[0]}{' and other files' if foreign[1:] else ''} that no run of clean "
            "wrote; give an empty folder, or the folder of an earlier corpus, with --output_dir."
        )


def _foreign_files(folder: Path) -> list[str]:
    """Names of what lies in a folder and is no part of a corpus; hidden files are not counted."""
    if not folder.is_dir():
        return []
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    # A run that was killed while it renamed its files leaves them without a manifest.
    ours = {"manifest.json", *WHOLE} if {"manifest.json", ".partial"} & set(_all_names(folder)) else set()
    return [name for name in names if name not in ours and not _DATA.fullmatch(name)]


def _all_names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]
