"""What becomes of each article and paragraph, decided from hashes alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from corpus_tools.deduplication import HASH_BYTES, find_duplicates
from corpus_tools.parts import DUPLICATE, TRAIN, VALIDATION, Selection
from corpus_tools.shards import ShardSummary


def select(
    shards: Sequence[ShardSummary], work: Path, validation_fraction: float, min_chars: int
) -> tuple[list[Selection], int]:
    """The fate of each article and each paragraph, from the hashes of all shards in order; how many are held out."""
    duplicate_article = find_duplicates(b"".join(s.articles for s in shards))
    counts = np.array([n for s in shards for n in s.paragraph_counts], np.int64)
    duplicate_article &= counts > 0
    hashes = np.frombuffer(b"".join(s.paragraphs for s in shards), np.uint8).reshape(-1, HASH_BYTES)
    considered = np.frombuffer(b"".join(s.long_enough for s in shards), np.uint8).astype(np.bool_)
    considered &= ~np.repeat(duplicate_article, counts)
    duplicates = np.zeros(len(hashes), np.uint8)
    duplicates[considered] = find_duplicates(hashes[considered].tobytes())
    fates = np.where(duplicate_article, DUPLICATE, TRAIN).astype(np.uint8)
    held_out = _held_out(shards, fates, validation_fraction, min_chars)
    fates[held_out] = VALIDATION
    selections, article, paragraph = [], 0, 0
    for shard in shards:
        end, last = article + len(shard.paragraph_counts), paragraph + sum(shard.paragraph_counts)
        marks = duplicates[paragraph:last].tobytes()
        selections.append(Selection(work / shard.stored, fates[article:end].tobytes(), marks))
        article, paragraph = end, last
    return selections, len(held_out)


def _held_out(shards: Sequence[ShardSummary], fates: Any, fraction: float, min_chars: int) -> list[int]:
    """The articles whose hash comes first: the same ones wherever the files lie and however many there are."""
    characters = [n for s in shards for n in s.characters]
    keys = b"".join(s.articles for s in shards)
    live = [i for i in np.flatnonzero(fates != DUPLICATE).tolist() if characters[i] >= min_chars]
    wanted = max(1, round(fraction * len(live))) if fraction > 0 and len(live) > 1 else 0
    return sorted(live, key=lambda i: (keys[i * HASH_BYTES : (i + 1) * HASH_BYTES], i))[:wanted]
