"""Rows of one article from wherever they lie in large files: into units of whole articles, as large as parts are.

Articles stay in the order of their first rows. Only the parts that share an article with another one are taken apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from corpus_tools.documents import name_of
from corpus_tools.files.atomic import written_aside
from corpus_tools.files.sources import Source
from corpus_tools.filtering.deduplication import hash_names, repeats
from corpus_tools.steps.clean_shard import ShardOptions, read_unit
from corpus_tools.steps.cut_file import NAMES, CutFile
from corpus_tools.steps.units import UNIT_BYTES, StoredRow, Unit

# Where the rows of a title by an author go, and the unit in which the first of them lies; ordered by title and author.
_PLACES = np.dtype([("title", "u8"), ("author", "u8"), ("bin", "u4"), ("unit", "u4")])
_Names = npt.NDArray[np.void]


class Member(NamedTuple):
    """A part of a file: the unit that it is, the place of its file among those of the group, its records of NAMES."""

    unit: Unit
    source: int
    cut: CutFile
    first: int
    records: int

    def names(self) -> _Names:
        """The records of its titles and authors, in order of their first rows."""
        offset = self.first * NAMES.itemsize
        return np.fromfile(self.cut.names_file, NAMES, self.records, offset=offset)

    def keys(self) -> npt.NDArray[np.uint64]:
        """Titles and authors alone, [records, 2]."""
        names = self.names()
        return np.stack([names["title"], names["author"]], axis=1)


def members_of(sources: Sequence[Source], cuts: Sequence[CutFile]) -> list[Member]:
    """All parts of some files, in order."""
    members = []
    for number, (source, cut) in enumerate(zip(sources, cuts, strict=True)):
        first = start = 0
        for end, records in zip(cut.ends, cut.records, strict=True):
            unit = Unit((source,), (Path(cut.rows_file), start, end), kinds=(cut.kind,))
            members.append(Member(unit, number, cut, first, records))
            first, start = first + records, end
    return members


def gather(
    sources: Sequence[Source],
    cuts: Sequence[CutFile],
    folder: Path,
    options: ShardOptions,
    run: Callable[..., list[Any]],
) -> list[Unit]:
    """The units of some files, with those parts that share an article taken apart and put together again in `folder`.

    `run` runs tasks, see `executor.run_tasks`.
    """
    members = members_of(sources, cuts)
    taken = _sharing(members)
    if not taken:
        return [member.unit for member in members]
    places, bins = _places([members[i].names() for i in taken])
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "places.npy", places)
    put = [partial(put_in_bins, members[i], number, bins, folder, options) for number, i in enumerate(taken)]
    ends = np.array(run("gather", put), np.int64)  # [units, bins]: of each bin in the unit's file
    np.save(folder / "ends.npy", ends)
    filled: list[bool] = np.asarray(np.diff(ends, axis=1, prepend=0).any(axis=0)).tolist()
    kinds = tuple(cut.kind for cut in cuts)
    apart = frozenset((number, title) for number, cut in enumerate(cuts) for title in cut.apart)
    units: list[Unit] = []
    first = 0
    for i, member in enumerate(members):
        if i not in taken:
            units.append(member.unit)
            continue
        count = bins[taken.index(i)]
        for number in range(first, first + count):
            if filled[number]:
                units.append(Unit(tuple(sources), bin=(folder, number), kinds=kinds, apart=apart))
        first += count
    return units


def _sharing(members: Sequence[Member]) -> list[int]:
    """The members that have an article with another one, or rows whose author only other ones could tell."""
    ends = np.cumsum([member.records for member in members])
    places = repeats([member.keys for member in members], int(ends[-1]) if len(ends) else 0)
    later, first = (np.searchsorted(ends, found, "right") for found in places)
    found = set(later[later != first].tolist()) | set(first[later != first].tolist())
    for i, member in enumerate(members):
        if member.cut.apart and np.isin(member.names()["title"], np.array(member.cut.apart, np.uint64)).any():
            found.add(i)
    return sorted(found)


def _places(names: Sequence[_Names]) -> tuple[_Names, list[int]]:
    """The bin of each title and author, and how many bins each unit has, at least one: for rows without a title."""
    unit = np.repeat(np.arange(len(names)), list(map(len, names)))
    records = np.concatenate(names)
    order = np.lexsort((records["author"], records["title"]))  # stable: equal ones stay in order
    ordered = records[order]
    titles, authors = ordered["title"], ordered["author"]
    begins = np.flatnonzero(np.append(True, (titles[1:] != titles[:-1]) | (authors[1:] != authors[:-1])))
    firsts, sizes = order[begins], np.add.reduceat(ordered["size"], begins)
    by_place = np.argsort(firsts)
    owners = unit[firsts[by_place]]
    before = np.cumsum(sizes[by_place]) - sizes[by_place]
    before -= before[np.searchsorted(owners, owners, "left")]  # counted from the first article of the unit
    local = (before // UNIT_BYTES).astype(np.int64)
    counts = np.ones(len(names), np.int64)
    np.maximum.at(counts, owners, local + 1)
    places = np.zeros(len(begins), _PLACES)
    places["title"], places["author"] = titles[begins], authors[begins]
    places["bin"][by_place] = local + (np.cumsum(counts) - counts)[owners]
    places["unit"][by_place] = owners
    return places, counts.tolist()


class _Lookup:
    """Finds the bin of a title and author, and the unit that has the first row."""

    def __init__(self, path: Path) -> None:
        self._places = np.load(path)
        self._titles = self._places["title"].copy()

    def find(self, title: int, author: int) -> tuple[int, int]:
        """Bin and unit."""
        at = int(np.searchsorted(self._titles, np.uint64(title)))
        while self._places["author"][at] != author:
            at += 1
        return int(self._places["bin"][at]), int(self._places["unit"][at])


def put_in_bins(
    member: Member, number: int, bins: Sequence[int], folder: Path, options: ShardOptions
) -> list[int]:
    """Write a unit's rows bin by bin into its file of the folder, and return where each bin ends there.

    A row without a title is an article of its own, and stays behind the article that begins before it.
    """
    given = read_unit(member.unit, None, options)
    lookup = _Lookup(folder / "places.npy")
    of_bin: dict[int, list[bytes]] = {}
    place = now = sum(bins[:number])
    encode = msgspec.json.Encoder().encode
    at = 0
    for (title, author), run in groupby(given.rows, attrgetter("title", "author")):
        rows = list(run)
        place = now
        if name_of(title):
            of_title, of_author = hash_names(title, author)
            place, owner = lookup.find(of_title, of_author or member.cut.given.get(of_title, 0))
            now = max(now, place) if owner == number else now
        for row in rows:
            n = given.numbers[at]
            bad = f"{member.cut.name}, row {n}" in given.bad
            stored = StoredRow(member.source, n, row.text, title, author, row.paragraph_id, bad)
            of_bin.setdefault(place, []).append(encode(stored) + b"\n")
            at += 1
    ends, end = [], 0
    with written_aside(folder / f"{number}.rows") as aside, aside.open("wb") as file:
        for place in range(sum(bins)):
            end += file.write(b"".join(of_bin.get(place, ())))
            ends.append(end)
    return ends
