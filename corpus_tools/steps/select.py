"""What becomes of each article and paragraph, decided from hashes alone."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from corpus_tools.files.shard_file import ShardFile, read_hashes, read_numbers
from corpus_tools.filtering.deduplication import repeats
from corpus_tools.steps.clean_shard import ShardSummary

TRAIN, VALIDATION, DUPLICATE = range(3)


class Selection(NamedTuple):
    """A shard and its input files; each article's fate (bytes of TRAIN ...); each paragraph's 1 if a duplicate."""

    shard: ShardFile
    sources: tuple[str, ...]
    fates: bytes
    duplicates: bytes


def select(
    shards: Sequence[ShardSummary], work: Path, validation_fraction: float, min_chars: int
) -> tuple[list[Selection], int]:
    """The fate of each article and each paragraph, from the hashes of all shards in order; how many are held out.

    Hashes stay in the shards' files: what is in memory is a few bytes for each article, and one for each paragraph.
    """
    files = [shard.file(work) for shard in shards]
    live = [file for file in files if file is not None]
    counts = _numbers([read_numbers(file, "paragraph_counts") for file in live])
    duplicate_article = np.zeros(len(counts), np.bool_)
    duplicate_article[repeats([partial(read_hashes, f, "keys") for f in live], len(counts))[0]] = True
    duplicate_article &= counts > 0
    duplicates = _duplicate_paragraphs(live, shards, counts, duplicate_article)
    fates = np.where(duplicate_article, DUPLICATE, TRAIN).astype(np.uint8)
    held_out = _held_out(live, fates, validation_fraction, min_chars)
    fates[held_out] = VALIDATION
    selections, article, paragraph = [], 0, 0
    for shard, file in zip(shards, files, strict=True):
        end, last = article + shard.articles, paragraph + shard.paragraphs
        if file is not None:
            marks = duplicates[paragraph:last].tobytes()
            selections.append(Selection(file, tuple(shard.sources), fates[article:end].tobytes(), marks))
        article, paragraph = end, last
    return selections, len(held_out)


def _numbers(of_shards: Sequence[npt.NDArray[np.int32]]) -> npt.NDArray[np.int32]:
    return np.concatenate([np.zeros(0, np.int32), *of_shards])


def _duplicate_paragraphs(
    files: Sequence[ShardFile],
    shards: Sequence[ShardSummary],
    counts: npt.NDArray[np.int32],
    ignored: npt.NDArray[np.bool_],
) -> npt.NDArray[np.bool_]:
    """Which paragraphs repeat one of an earlier article, [paragraphs] bool; those of `ignored` articles do not count.

    A refrain stays where it is sung: in its own article a paragraph may come again.
    """

    def hashes_of(file: ShardFile, first: int) -> npt.NDArray[np.uint64]:
        hashes = read_hashes(file, "paragraphs")
        articles = slice(first, first + len(read_numbers(file, "paragraph_counts")))
        hashes[np.repeat(ignored[articles], counts[articles])] = 0
        return hashes

    with_articles = [shard.articles for shard in shards if shard.stored]
    firsts = np.cumsum([0, *with_articles]).tolist()
    blocks = [partial(hashes_of, file, first) for file, first in zip(files, firsts, strict=False)]
    ends = np.cumsum(counts, dtype=np.int64)
    found = np.zeros(int(ends[-1]) if len(ends) else 0, np.bool_)
    later, first = repeats(blocks, len(found))
    found[later] = np.searchsorted(ends, first, "right") < np.searchsorted(ends, later, "right")
    return found


def _held_out(
    files: Sequence[ShardFile], fates: npt.NDArray[np.uint8], fraction: float, min_chars: int
) -> list[int]:
    """The articles whose hash comes first: the same ones wherever the files lie and however many there are."""
    characters = _numbers([read_numbers(file, "lengths") for file in files])
    live = np.flatnonzero((fates != DUPLICATE) & (characters >= min_chars))
    wanted = max(1, round(fraction * len(live))) if fraction > 0 and len(live) > 1 else 0
    if not wanted:
        return []
    # The bytes of a hash in their order are a big-endian number.
    first_halves = np.concatenate([read_hashes(file, "keys")[:, 0].byteswap() for file in files])[live]
    last = np.partition(first_halves, wanted - 1)[wanted - 1]
    near = np.flatnonzero(first_halves <= last)
    second_halves = np.concatenate([read_hashes(file, "keys")[:, 1].byteswap() for file in files])[live[near]]
    order = np.lexsort((second_halves, first_halves[near]))  # stable: equal hashes stay in order
    return sorted(live[near[order[:wanted]]].tolist())
