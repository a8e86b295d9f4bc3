"""Tasks in any executor, and the folder that one run at a time has for its unfinished files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout

from corpus_tools.errors import InputError

T = TypeVar("T")
Progress = Callable[[str, int, int], None]


@contextmanager
def work_folder(output_dir: Path) -> Iterator[Path]:
    """A folder for unfinished files in `output_dir`, which no other run uses meanwhile; failures become InputError."""
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        with FileLock(output_dir / ".lock", timeout=0):
            work = output_dir.resolve() / ".partial"
            work.mkdir(exist_ok=True)
            yield work
    except Timeout as error:
        raise InputError(
            f"another run is writing into {output_dir}; wait for it or give another folder."
        ) from error
    except BrokenExecutor as error:
        raise InputError(
            "a worker process died, perhaps for want of memory; "
            "run the same command again, with fewer --workers: finished shards are kept."
        ) from error
    except OSError as error:
        raise InputError(f"{output_dir}: {error.strerror or error}; nothing was changed there.") from error


def run_tasks(
    executor: Executor | None, progress: Progress, step: str, calls: Iterable[Callable[[], T]]
) -> list[T]:
    """Results in order; the first error in order is raised and what has not begun is cancelled."""
    tasks = list(calls)
    results: list[T] = []
    if executor is None:
        for task in tasks:
            results.append(task())
            progress(step, len(results), len(tasks))
        return results
    futures: list[Future[T]] = [executor.submit(task) for task in tasks]
    try:
        for future in futures:
            results.append(future.result())
            progress(step, len(results), len(tasks))
    finally:
        for future in futures:
            future.cancel()
    return results
