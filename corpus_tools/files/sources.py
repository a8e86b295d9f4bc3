"""The input files, their formats and the names by which a corpus refers to them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from corpus_tools.errors import InputError

TEXTS = (".txt", ".srt", ".vtt")  # one article each
FORMATS = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", *TEXTS)
COMPRESSIONS = (".gz", ".zst")


class Source(NamedTuple):
    """An input file and the name by which the corpus refers to it: its path below the folder given."""

    name: str
    path: Path


def _endings(path: Path) -> list[str]:
    """The endings that tell the format: one, two of a compressed file, none of a file of another kind.

    >>> _endings(Path("SB.1969.Tan.txt.gz")), _endings(Path("notes.md"))
    (['.txt', '.gz'], [])
    """
    endings = path.suffixes[-2:]
    if endings and endings[-1].lower() not in COMPRESSIONS:
        endings = endings[-1:]
    return endings if endings and endings[0].lower() in FORMATS else []


def format_of(path: Path) -> str:
    """The ending that tells the format, in lower case; "" for an unknown one."""
    return "".join(_endings(path)[:1]).lower()


def title_of(name: str) -> str:
    """The title of a text file: its path in the source, without the endings.

    >>> title_of("poems/SB.1969.Tan.First_01.txt")
    'poems/SB.1969.Tan.First_01'
    """
    return name.removesuffix("".join(_endings(Path(name))))


def find_sources(paths: Sequence[str | Path]) -> tuple[list[Source], list[str]]:
    """The files to read, sorted by name, and the names of files passed over because of their suffix.

    Folders are searched in depth; hidden files and folders are left out.

    Raises:
        InputError: A path does not exist, a file named outright has an unknown suffix, or nothing is left.
    """
    found: dict[Path, Source] = {}  # by its true path, so that a file given twice is read once
    passed_over: list[str] = []
    for root in map(Path, paths):
        if root.is_dir():
            for path in root.rglob("*"):
                name = path.relative_to(root)
                # A link to nothing is a file that cannot be read, not one to be passed over in silence.
                special = path.exists() and not path.is_file()
                if special or any(part.startswith(".") for part in name.parts):
                    continue
                name = Path(root.resolve().name, name) if len(paths) > 1 else name
                if format_of(path):
                    _add(found, Source(name.as_posix(), path.absolute()))
                else:
                    passed_over.append(name.as_posix())
        elif not root.exists():
            raise InputError(f"{root} does not exist; give a folder or file of {', '.join(FORMATS)}.")
        elif not format_of(root):
            raise InputError(
                f"{root} has an unknown suffix; wanted {', '.join(FORMATS)}, also with .gz or .zst."
            )
        else:
            _add(found, Source(root.name, root.absolute()))
    if not found:
        seen = f" ({len(passed_over)} other files there)" if passed_over else ""
        raise InputError(
            f"no input in {', '.join(map(str, paths))}{seen}; wanted files of {', '.join(FORMATS)}."
        )
    return sorted(found.values()), sorted(passed_over)


def _add(found: dict[Path, Source], source: Source) -> None:
    path = source.path.resolve()
    found[path] = min(source, found.get(path, source))
