"""A cleaned shard as one file of the work folder: texts, hashes, lengths, articles, counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from corpus_tools.documents import CleanedArticle, Counts
from corpus_tools.files.atomic import written_aside


class Ends(NamedTuple):
    """Where each section of the file ends, in bytes; they follow each other in this order."""

    texts: int = 0
    paragraphs: int = 0
    titles: int = 0
    keys: int = 0
    lengths: int = 0
    paragraph_counts: int = 0
    articles: int = 0
    counts: int = 0


class ShardFile(NamedTuple):
    """Which file of the work folder holds a shard."""

    path: Path
    ends: Ends


Numbers = Literal["lengths", "paragraph_counts"]
Hashes = Literal["paragraphs", "titles", "keys"]


def store_shard(
    path: Path,
    texts: Sequence[bytes],
    hashes: dict[Hashes, Sequence[bytes]],
    articles: Sequence[CleanedArticle],
    counts: Counts,
) -> Ends:
    """Write a shard: its texts in UTF-8; 16 bytes for each paragraph, title and article; and for each article its
    characters and paragraphs; then records of the articles, and counts.
    """
    encode = msgspec.msgpack.encode
    numbers = ([a.length for a in articles], [len(a.first_rows) for a in articles])
    sections = [
        texts,
        *(hashes[name] for name in ("paragraphs", "titles", "keys")),
        *([np.array(values, np.int32).tobytes()] for values in numbers),
        [encode(articles)],
        [encode(counts)],
    ]
    ends, size = [], 0
    with written_aside(path) as aside, aside.open("wb") as file:
        for section in sections:
            file.writelines(section)
            size += sum(map(len, section))
            ends.append(size)
    return Ends(*ends)


@contextmanager
def open_shard(shard: ShardFile) -> Iterator[tuple[list[CleanedArticle], memoryview]]:
    """A shard's articles and their texts, one after the other; the texts are mapped rather than read."""
    ends = shard.ends
    with (
        shard.path.open("rb") as file,
        mmap(file.fileno(), 0, access=ACCESS_READ) as mapped,
        memoryview(mapped) as view,
    ):
        with view[ends.paragraph_counts : ends.articles] as records:
            articles = msgspec.msgpack.decode(records, type=list[CleanedArticle])
        with view[: ends.texts] as texts:
            yield articles, texts


def read_hashes(shard: ShardFile, name: Hashes) -> npt.NDArray[np.uint64]:
    """The hashes of a shard's paragraphs, titles or articles, [n, 2] uint64."""
    return _section(shard, name, np.dtype(np.uint64)).reshape(-1, 2)


def read_numbers(shard: ShardFile, name: Numbers) -> npt.NDArray[np.int32]:
    """Characters or paragraphs of each of a shard's articles, [articles] int32."""
    return _section(shard, name, np.dtype(np.int32))


def _section(shard: ShardFile, name: str, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    place = Ends._fields.index(name)
    start, end = shard.ends[place - 1], shard.ends[place]
    return np.fromfile(shard.path, dtype, (end - start) // dtype.itemsize, offset=start)


def read_counts(shard: ShardFile) -> Counts:
    """A shard's counts."""
    with shard.path.open("rb") as file:
        file.seek(shard.ends.articles)
        return msgspec.msgpack.decode(file.read(), type=Counts, dec_hook=_as_counter)


def _as_counter(kind: type, value: Any) -> Counter[str]:
    """msgspec knows no Counter: it reads a dict and asks here."""
    return Counter(value)
