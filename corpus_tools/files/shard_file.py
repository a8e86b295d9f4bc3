"""A cleaned shard as one file of the work folder: texts, hashes of paragraphs, articles, counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from corpus_tools.documents import CleanedArticle, Counts
from corpus_tools.files.atomic import written_aside


class Ends(NamedTuple):
    """Where each section of the file ends, in bytes; they follow each other in this order."""

    texts: int
    hashes: int
    articles: int
    counts: int


def store_shard(
    path: Path,
    texts: Sequence[bytes],
    hashes: Sequence[bytes],
    articles: Sequence[CleanedArticle],
    counts: Counts,
) -> Ends:
    """Write a shard: its texts in UTF-8, 16 bytes for each paragraph, records of its articles, and counts."""
    encode = msgspec.msgpack.encode
    ends, size = [], 0
    with written_aside(path) as aside, aside.open("wb") as file:
        for section in (texts, hashes, [encode(articles)], [encode(counts)]):
            file.writelines(section)
            size += sum(map(len, section))
            ends.append(size)
    return Ends(*ends)


@contextmanager
def open_shard(path: Path, ends: Ends) -> Iterator[tuple[list[CleanedArticle], memoryview]]:
    """A shard's articles and their texts, one after the other; the texts are mapped rather than read."""
    with (
        path.open("rb") as file,
        mmap(file.fileno(), 0, access=ACCESS_READ) as mapped,
        memoryview(mapped) as view,
    ):
        with view[ends.hashes : ends.articles] as records:
            articles = msgspec.msgpack.decode(records, type=list[CleanedArticle])
        with view[: ends.texts] as texts:
            yield articles, texts


def read_hashes(path: Path, ends: Ends) -> npt.NDArray[np.uint64]:
    """A shard's paragraphs' hashes, [paragraphs, 2] uint64."""
    count = (ends.hashes - ends.texts) // 8
    return np.fromfile(path, np.uint64, count, offset=ends.texts).reshape(-1, 2)


def read_counts(path: Path, ends: Ends) -> Counts:
    """A shard's counts."""
    with path.open("rb") as file:
        file.seek(ends.articles)
        return msgspec.msgpack.decode(file.read(), type=Counts, dec_hook=_as_counter)


def _as_counter(kind: type, value: Any) -> Counter[str]:
    """msgspec knows no Counter: it reads a dict and asks here."""
    return Counter(value)
