"""The processes that a run has: as many as asked for, and none that outlives it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager, suppress

from corpus_tools.errors import InputError, optional_import


@contextmanager
def executor(workers: int, scheduler: str | None) -> Iterator[Executor | None]:
    """Runs tasks in `workers` processes (0: one a core) or on a Dask cluster; None stands for this process.

    Raises:
        InputError: Dask is missing, or no scheduler answers.
    """
    if scheduler:
        with _cluster(scheduler) as on_cluster:
            yield on_cluster
        return
    count = workers or cores()
    if count == 1:
        yield None
        return
    with ProcessPoolExecutor(count, initializer=_begin_worker) as processes:
        yield processes


@contextmanager
def _cluster(scheduler: str) -> Iterator[Executor]:
    with optional_import("Dask", "cluster", "--scheduler"):
        from distributed import Client
    try:
        client = Client(scheduler, timeout=10)  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as error:
        raise InputError(f"no Dask scheduler answers at {scheduler} ({error}); start one there.") from error
    with client, client.get_executor() as on_cluster:  # type: ignore[no-untyped-call]
        yield on_cluster


def _begin_worker() -> None:
    """Leave Ctrl-C to the parent, and end with it: a pool's idle workers wait for ever if it was killed."""
    for name in ("SIGINT", "SIGBREAK"):  # the second is Windows' Ctrl-Break
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def cores() -> int:
    """The cores that this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return min(os.cpu_count() or 1, 61)  # more processes than that no pool takes on Windows


def keep_freed_memory() -> None:
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
