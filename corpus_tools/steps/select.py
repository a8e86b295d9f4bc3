"""What becomes of each article and paragraph, decided from hashes alone."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from corpus_tools.files.shard_file import Ends, read_hashes
from corpus_tools.filtering.deduplication import HASH_BYTES, find_duplicates, first_places
from corpus_tools.steps.clean_shard import ShardSummary

TRAIN, VALIDATION, DUPLICATE = range(3)


class Selection(NamedTuple):
    """A shard's file; each article's fate (bytes of TRAIN ...); each paragraph's 1 if a duplicate."""

    path: Path
    ends: Ends
    fates: bytes
    duplicates: bytes


def select(
    shards: Sequence[ShardSummary], work: Path, validation_fraction: float, min_chars: int
) -> tuple[list[Selection], int]:
    """The fate of each article and each paragraph, from the hashes of all shards in order; how many are held out."""
    counts = np.fromiter(chain.from_iterable(s.paragraph_counts for s in shards), np.int32)
    duplicate_article = find_duplicates(b"".join(s.articles for s in shards))
    duplicate_article &= counts > 0
    of_article = np.repeat(np.arange(len(counts)), counts)
    duplicates = _duplicate_paragraphs(shards, work, of_article, duplicate_article[of_article])
    fates = np.where(duplicate_article, DUPLICATE, TRAIN).astype(np.uint8)
    held_out = _held_out(shards, fates, validation_fraction, min_chars)
    fates[held_out] = VALIDATION
    selections, article, paragraph = [], 0, 0
    for shard in shards:
        end, last = article + len(shard.paragraph_counts), paragraph + sum(shard.paragraph_counts)
        marks = duplicates[paragraph:last].tobytes()
        selections.append(Selection(work / shard.stored, shard.ends, fates[article:end].tobytes(), marks))
        article, paragraph = end, last
    return selections, len(held_out)


def _duplicate_paragraphs(
    shards: Sequence[ShardSummary],
    work: Path,
    of_article: npt.NDArray[np.int64],
    ignored: npt.NDArray[np.bool_],
) -> npt.NDArray[np.bool_]:
    """Which paragraphs repeat one of an earlier article, [paragraphs] bool; those of duplicate articles are `ignored`.

    A refrain stays where it is sung: in its own article a paragraph may come again.
    """
    hashes = np.zeros((len(ignored), 2), np.uint64)
    at = 0
    for shard in shards:
        if shard.stored:
            of_shard = read_hashes(work / shard.stored, shard.ends)
            hashes[at : at + len(of_shard)] = of_shard
            at += len(of_shard)
    hashes[ignored] = 0
    return of_article[first_places(hashes)] < of_article


def _held_out(
    shards: Sequence[ShardSummary], fates: npt.NDArray[np.uint8], fraction: float, min_chars: int
) -> list[int]:
    """The articles whose hash comes first: the same ones wherever the files lie and however many there are."""
    characters = [n for s in shards for n in s.characters]
    keys = b"".join(s.articles for s in shards)
    live = [i for i in np.flatnonzero(fates != DUPLICATE).tolist() if characters[i] >= min_chars]
    wanted = max(1, round(fraction * len(live))) if fraction > 0 and len(live) > 1 else 0
    return sorted(live, key=lambda i: (keys[i * HASH_BYTES : (i + 1) * HASH_BYTES], i))[:wanted]
