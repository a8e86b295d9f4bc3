"""All shards of the input: which files are cleaned together, which are too large for that and cleaned in parts."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from corpus_tools.files.shard_file import read_hashes
from corpus_tools.files.sources import Source
from corpus_tools.files.streams import is_large
from corpus_tools.filtering.deduplication import repeats
from corpus_tools.steps.clean_shard import ShardOptions, ShardSummary
from corpus_tools.steps.cut_file import CutFile, cut_file
from corpus_tools.steps.gather import gather, members_of
from corpus_tools.steps.units import Unit


class InputFile(NamedTuple):
    """What the manifest says of a file that was read."""

    name: str
    bytes: int
    sha256: str
    rows: int


class Cleaned(NamedTuple):
    """Shards in order of their first files; the files read; files and rows left out, with the reasons.

    `sharing`: of each file with whose articles those of other files go on, how many files they are.
    """

    shards: list[ShardSummary]
    files: list[InputFile]
    left_out: dict[str, str]
    sharing: dict[str, int]


Clean = Callable[[Unit], ShardSummary]
Run = Callable[..., list[Any]]


def clean_all(clean: Clean, files: Sequence[Source], work: Path, options: ShardOptions, run: Run) -> Cleaned:
    """Clean every file; those that share a title by one author together.

    A large file is cut into parts first, so that no more of it is in memory than its longest article takes.
    """
    folder = work / "parts"
    folder.mkdir(exist_ok=True)
    cut = partial(cut_file, folder=folder, options=options)
    large = [i for i, file in enumerate(files) if is_large(file)]
    small = [i for i, file in enumerate(files) if i not in set(large)]
    cuts: dict[int, CutFile] = dict(
        zip(large, run("read", [partial(cut, files[i]) for i in large]), strict=True)
    )
    alone = run("clean", [partial(clean, Unit((files[i],))) for i in small])
    shards = dict(zip(small, ([shard] for shard in alone), strict=True))
    groups = _groups(len(files), shards, cuts, work)
    together = [group for group in groups if len(group) > 1 and not cuts.keys() & set(group)]
    merged = run("merge", [partial(clean, Unit(tuple(files[i] for i in group))) for group in together])
    shards |= zip((group[0] for group in together), ([shard] for shard in merged), strict=True)
    with_large = [group for group in groups if cuts.keys() & set(group)]
    others = [i for group in with_large for i in group if i not in cuts]
    cuts |= zip(others, run("read", [partial(cut, files[i]) for i in others]), strict=True)
    units = [
        gather(
            [files[i] for i in group], [cuts[i] for i in group], folder / f"group-{group[0]}", options, run
        )
        for group in with_large
    ]
    parts = iter(run("clean", [partial(clean, unit) for of_group in units for unit in of_group]))
    for group, of_group in zip(with_large, units, strict=True):
        shards[group[0]] = [next(parts) for _ in of_group]
    shutil.rmtree(folder)
    return _result(files, groups, shards, cuts)


def _groups(
    count: int, shards: Mapping[int, Sequence[ShardSummary]], cuts: Mapping[int, CutFile], work: Path
) -> list[list[int]]:
    """Numbers of files that have an article in common, each group in order, by first file."""
    blocks: list[Callable[[], npt.NDArray[np.uint64]]] = []
    of_blocks: list[int] = []  # the file that each is of
    sizes: list[int] = []
    for i in range(count):
        if i in cuts:
            members = members_of([Source("", Path())], [cuts[i]])
            blocks += [member.keys for member in members]
            sizes += cuts[i].records
        elif file := shards[i][0].file(work):
            blocks.append(partial(read_hashes, file, "titles"))
            sizes.append(shards[i][0].articles)
        of_blocks += [i] * (len(blocks) - len(of_blocks))
    of_block, ends = np.array(of_blocks, np.int64), np.cumsum(sizes)
    places = repeats(blocks, sum(sizes)) if count > 1 and blocks else ()
    found = [of_block[np.searchsorted(ends, place, "right")].tolist() for place in places]
    group = list(range(count))

    def root(i: int) -> int:
        while group[i] != i:
            i = group[i]
        return i

    for one, other in set(zip(*found, strict=True)):
        a, b = root(one), root(other)
        group[max(a, b)] = min(a, b)
    members_of_root: dict[int, list[int]] = {}
    for i in range(count):
        members_of_root.setdefault(root(i), []).append(i)
    return list(members_of_root.values())


def _result(
    files: Sequence[Source],
    groups: Sequence[Sequence[int]],
    shards: Mapping[int, list[ShardSummary]],
    cuts: Mapping[int, CutFile],
) -> Cleaned:
    found: list[InputFile] = []
    failed: dict[str, str] = {}
    bad_rows: dict[str, str] = {}
    for group in groups:
        for i in [i for i in group if i in cuts]:
            cut = cuts[i]
            failed |= {cut.name: cut.error} if cut.error else {}
            bad_rows |= cut.bad_rows
            found += [InputFile(cut.name, cut.size, cut.sha256, cut.rows)] if not cut.error else []
        for shard in shards[group[0]]:
            failed |= {", ".join(shard.sources): shard.error} if shard.error else {}
            bad_rows |= shard.bad_rows
            found += map(InputFile, shard.sources, shard.sizes, shard.sha256, shard.rows)
    return Cleaned(
        [shard for group in groups for shard in shards[group[0]]],
        found,
        failed | bad_rows,
        {files[group[0]].name: len(group) for group in groups if len(group) > 1},
    )
