"""`python -m corpus_tools clean | preview | sample`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jsonargparse import auto_cli, set_parsing_settings
from jsonargparse.typing import ClosedUnitInterval, NonNegativeInt, PositiveInt

from corpus_tools.errors import InputError

if TYPE_CHECKING:
    from concurrent.futures import Executor


FLAGS = ("--convert_simplified", "--skip_bad_files")


def clean(
    source: Path,
    output_dir: Path = Path("data/cpt_corpus"),
    workers: NonNegativeInt = 0,
    min_chars: PositiveInt = 100,
    max_chars: PositiveInt = 2048,
    validation_fraction: ClosedUnitInterval = 0.05,
    min_paragraph_chars: PositiveInt = 30,
    min_taigi_score: ClosedUnitInterval = 0.0,
    decontaminate: Path | None = None,
    ngram: PositiveInt = 13,
    convert_simplified: bool = False,
    fields: dict[str, str] | None = None,
    output_format: Literal["parquet", "jsonl"] = "parquet",
    skip_bad_files: bool = False,
    scheduler: str | None = None,
) -> None:
    """Clean raw article files into a corpus folder for training.

    Args:
        source: Folder or file: JSON lists, JSONL, CSV, TXT, Parquet, also with .gz or .zst.
        output_dir: Folder for the corpus; an earlier corpus there is replaced at the very end.
        workers: Processes; 0 takes as many as there are cores. The result is the same.
        min_chars: Shorter documents are dropped.
        max_chars: Longer articles are split at sentence ends.
        validation_fraction: Share of the articles held out, whole.
        min_paragraph_chars: Shorter paragraphs may repeat; of longer ones the first stays.
        min_taigi_score: Documents that look less like Taigi than this are dropped.
        decontaminate: CSV file of evaluation questions; text that shares an n-gram with them is dropped.
        ngram: Letters and digits in such an n-gram; punctuation and line breaks do not count.
        convert_simplified: Convert articles that are themselves Simplified Chinese.
        fields: The files' names for text, title, author and paragraph_id, where they differ.
        output_format: Format of the documents.
        skip_bad_files: Go on without damaged files and list them in the report.
        scheduler: Address of a Dask scheduler (tcp://...) to run on; needs the extra `cluster`.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy's threads would spin for work that never comes
    _keep_freed_memory()
    from corpus_tools.pipeline import build_corpus

    with _executor(workers, scheduler) as executor, _progress() as progress:
        report = build_corpus(
            [source],
            output_dir,
            min_chars=min_chars,
            max_chars=max_chars,
            validation_fraction=validation_fraction,
            min_paragraph_chars=min_paragraph_chars,
            min_taigi_score=min_taigi_score,
            decontaminate=decontaminate,
            ngram=ngram,
            convert_simplified=convert_simplified,
            fields=fields,
            output_format=output_format,
            skip_bad_files=skip_bad_files,
            executor=executor,
            progress=progress,
        )
    _summarise(report, output_dir)


def _keep_freed_memory() -> None:
    """Make malloc of this process, and of workers forked from it, keep freed memory for the next batch of articles.

    Each batch allocates and frees the same few megabytes. By default glibc returns them to the system every time,
    and the system must then map and clear them again page by page.
    """
    if sys.platform == "linux":
        import ctypes

        with suppress(AttributeError):  # another C library
            mallopt = ctypes.CDLL(None).mallopt
            mallopt(-1, 16 << 20)  # M_TRIM_THRESHOLD of malloc.h
            mallopt(-3, 32 << 20)  # M_MMAP_THRESHOLD; it takes no more than this


def _summarise(report: Mapping[str, Any], output_dir: Path) -> None:
    rows, documents = report["rows"], report["documents"]
    print(f"{rows['read']:,} rows read, {rows['kept']:,} kept; {documents['total']:,} documents, ", end="")
    print(f"{report['characters']['kept']:,} characters in {output_dir} (see report.html there)")
    for name, reason in report["skipped_files"].items():
        print(f"skipped {name}: {reason}", file=sys.stderr)


@contextmanager
def _executor(workers: int, scheduler: str | None) -> Iterator[Executor | None]:
    if scheduler:
        try:
            from distributed import Client
        except ImportError as error:
            raise InputError("--scheduler needs Dask; install it with: pip install '.[cluster]'.") from error
        try:
            client = Client(scheduler, timeout=10)  # type: ignore[no-untyped-call]
        except OSError as error:
            raise InputError(
                f"no Dask scheduler answers at {scheduler} ({error}); start one there."
            ) from error
        with client, client.get_executor() as executor:  # type: ignore[no-untyped-call]
            yield executor
        return
    count = workers or _cores()
    if count == 1:
        yield None
        return
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(count) as executor:
        yield executor


def _cores() -> int:
    """The cores that this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return min(os.cpu_count() or 1, 61)  # more processes than that no pool takes on Windows


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """A bar on a terminal, a line at every tenth of a step elsewhere."""
    if not sys.stderr.isatty():

        def line(step: str, done: int, total: int) -> None:
            if done == total or done * 10 // total > (done - 1) * 10 // total:
                print(f"{step}: {done} of {total}", file=sys.stderr)

        yield line
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True, auto_refresh=False) as bars:
        tasks = {}

        def bar(step: str, done: int, total: int) -> None:
            if step not in tasks:
                tasks[step] = bars.add_task(step, total=total)
            bars.update(tasks[step], completed=done, refresh=True)

        yield bar


def preview(file: Path, fields: dict[str, str] | None = None, limit: PositiveInt = 10) -> None:
    """Show what each rule would change in a file; nothing is written.

    Args:
        file: A file of any accepted format.
        fields: The file's names for text, title, author and paragraph_id, where they differ.
        limit: Changed lines shown of each rule.
    """
    from rich.console import Console

    from corpus_tools.report.preview import show_changes
    from corpus_tools.steps.preview_file import changes_of

    if not file.is_file():
        raise InputError(f"{file} is no file; give one of the raw files.")
    show_changes(changes_of(file, fields or {}), limit, Console(highlight=False))


def _with_values(arguments: list[str]) -> list[str]:
    """A flag may stand without its `true`."""
    return [
        f"{argument}=true"
        if argument in FLAGS and following.lower() not in ("true", "false", "yes", "no")
        else argument
        for argument, following in zip(arguments, [*arguments[1:], ""], strict=True)
    ]


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; 0, or 1 for unusable data (usage errors leave with 2)."""
    arguments = sys.argv[1:] if arguments is None else arguments
    commands: dict[str, Any] = {"clean": clean, "preview": preview}
    if arguments[:1] not in (["clean"], ["preview"]):  # its words take a while to load
        from corpus_tools.sample.write import write_sample

        commands["sample"] = write_sample
    completing = arguments[:1] == ["--print_completion"]
    if completing:  # the script is for the command that pip installs
        set_parsing_settings(add_print_completion_argument=True)
    prog = "corpus-tools" if completing else "corpus_tools"
    try:
        auto_cli(
            commands,
            args=_with_values(arguments),
            prog=prog,
            as_positional=True,
        )
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
