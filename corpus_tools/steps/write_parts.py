"""All parts of the output, in order: which shards make up each, what they dropped as one file, repeats between them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from corpus_tools.documents import PartSummary
from corpus_tools.files.writers import path_of
from corpus_tools.steps.clean_shard import ShardSummary
from corpus_tools.steps.publish import joined
from corpus_tools.steps.select import Selection
from corpus_tools.steps.write_part import repeated_documents

PART_CHARACTERS = 10_000_000


def grouped(shards: Sequence[ShardSummary], selections: Sequence[Selection]) -> list[list[Selection]]:
    """The shards' selections in order, as many together as make up a part."""
    groups: list[list[Selection]] = []
    size = 0
    for shard, selection in zip([shard for shard in shards if shard.stored], selections, strict=True):
        if not groups or (size and size + shard.characters > PART_CHARACTERS):
            groups.append([])
            size = 0
        groups[-1].append(selection)
        size += shard.characters
    return groups


def write_all(
    finish: Callable[..., PartSummary], groups: Sequence[Sequence[Selection]], work: Path, run: Any
) -> list[PartSummary]:
    """Parts in order, and what they dropped as one file; a document that an earlier part has is left out."""
    stems = [work / f"part-{i:05d}" for i in range(len(groups))]
    calls = [partial(finish, g, s) for g, s in zip(groups, stems, strict=True)]
    parts: list[PartSummary] = []
    with joined(work / "dropped.parquet") as join:

        def take(part: PartSummary) -> None:
            _join(part, stems[len(parts)], join)
            parts.append(part)

        run("write", calls, take)
    again = repeated_documents(parts)
    if again:  # they are written once more
        calls = [partial(finish, groups[i], stems[i], repeated=drop) for i, drop in again.items()]
        for i, part in zip(again, run("write again", calls), strict=True):
            parts[i] = part
        with joined(work / "dropped.parquet") as join:
            for part, stem in zip(parts, stems, strict=True):
                _join(part, stem, join)
    return parts


def _join(part: PartSummary, stem: Path, join: Callable[[Path], None]) -> None:
    if "dropped" in part.files:
        join(path_of(stem, "dropped"))
