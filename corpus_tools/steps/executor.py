"""Tasks in any executor, and the folder that one run at a time has for its unfinished files."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout

from corpus_tools.errors import InputError
from corpus_tools.windows import explain_windows

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")
Progress = Callable[[str, int, int], None]


@contextmanager
def work_folder(output_dir: Path) -> Iterator[Path]:
    """A folder for unfinished files in `output_dir`, which no other run uses meanwhile; failures become InputError."""
    fresh = not output_dir.exists()
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        with FileLock(output_dir / ".lock", timeout=0):
            work = output_dir.resolve() / ".partial"
            work.mkdir(exist_ok=True)
            yield work
    except InputError:
        if fresh and not any(path.is_file() for path in (output_dir / ".partial").rglob("*")):
            shutil.rmtree(output_dir)  # nothing was finished that the next run could take
        raise
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
        advice = f" {meaning[0].upper()}{meaning[1:]}." if (meaning := explain_windows(error)) else ""
        raise InputError(
            f"{output_dir}: {error.strerror or error}; nothing was changed there.{advice}"
        ) from error


@contextmanager
def ahead(function: Callable[[K], T], keys: Iterable[K]) -> Iterator[Callable[[K], T]]:
    """A version of `function` to be called with `keys` in order, whose next value a thread computes in advance."""
    following = iter(keys)
    found: dict[K, Future[T]] = {}
    with ThreadPoolExecutor(1) as thread:

        def look_ahead() -> None:
            for key in islice(following, 1):
                found[key] = thread.submit(function, key)

        def value(key: K) -> T:
            future = found.pop(key, None)
            if future is None:
                return function(key)
            look_ahead()  # before result(): if that raises, the caller may still go on to the next key
            return future.result()

        look_ahead()
        yield value


def run_tasks(
    executor: Executor | None,
    progress: Progress,
    step: str,
    calls: Iterable[Callable[[], T]],
    each: Callable[[T], None] = lambda result: None,
) -> list[T]:
    """Results in order, each also given to `each`; the first error is raised and what has not begun is cancelled."""
    tasks = list(calls)
    results: list[T] = []

    def take(result: T) -> None:
        results.append(result)
        each(result)
        progress(step, len(results), len(tasks))

    if executor is None:
        for task in tasks:
            take(task())
        return results
    futures: list[Future[T]] = [executor.submit(task) for task in tasks]
    try:
        for future in futures:
            take(future.result())
    finally:
        for future in futures:
            future.cancel()
    return results


@contextmanager
def no_collector() -> Iterator[None]:
    """No garbage collection: hundreds of thousands of plain records have no cycles to look for."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
