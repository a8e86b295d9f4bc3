"""Rows of one title become one article: ordered by paragraph_id, broken windows joined, paragraphs on lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import accumulate, chain, compress, count, groupby, islice
from operator import add, attrgetter, gt, itemgetter, lt, not_

from corpus_tools.cleaning.numbering import NUMBER_STARTS, in_sequence, number_at
from corpus_tools.documents import Article, Row, key_of_name, name_of
from corpus_tools.steps.row_kinds import RowKind
from corpus_tools.steps.window_edges import (
    COMPLETE,
    CONTINUES,
    FIRST_WIDE,
    MAY_END,
    Spaces,
    between,
    breaks_token,
    words_inside,
)

_UNCERTAIN = CONTINUES | {" "}
_first, _last = itemgetter(0), itemgetter(-1)
_names = attrgetter("title", "author")


def group_rows(
    rows: Sequence[Row],
    sources: Sequence[int] | None = None,
    apart: frozenset[tuple[int, str]] = frozenset(),
) -> list[Sequence[int]]:
    """Indices of rows by title and author, articles in order of their first row, rows in reading order.

    A row without a title stands for itself. Rows without an author belong to the author whom the other rows of their
    title name, if it is one (in the same file: `sources[i]` is the file of row i), and if file and title are not in
    `apart`: then rows that are not among these name others. Rows of one article are ordered by paragraph_id; where ids
    come again (the next volume or chapter under one title) a second set follows the first. Rows that lie together in
    order are a range.
    """
    titles: dict[tuple[str, str], list[range]] = {}
    groups: list[Sequence[int]] = []
    start = 0
    for names, run in groupby(rows, _names):
        indices = range(start, start + len(list(run)))
        start = indices.stop
        title, author = map(key_of_name, names)
        if not title:
            groups += [range(i, i + 1) for i in indices]
        else:
            titles.setdefault((title, author), []).append(indices)
    _give_authors(titles, sources, apart)
    groups += [runs[0] if len(runs) == 1 else list(chain(*runs)) for runs in titles.values()]
    groups.sort(key=_first)
    return [_reading_order(rows, group) for group in groups]


def _give_authors(
    titles: dict[tuple[str, str], list[range]],
    sources: Sequence[int] | None,
    apart: frozenset[tuple[int, str]],
) -> None:
    """Move runs of rows without an author to the one author of the same title in the same file."""
    unnamed = [title for title, author in titles if not author]
    if not unnamed:
        return
    authors: dict[str, list[str]] = {title: [] for title in unnamed}
    for title, author in titles:
        if author and title in authors:
            authors[title].append(author)

    def files(runs: Sequence[range]) -> set[int]:
        return {sources[i] for run in runs for i in run} if sources else {0}

    for title in unnamed:
        runs = titles[title, ""]
        for run in list(runs):
            named = [author for author in authors[title] if files([run]) & files(titles[title, author])]
            if len(named) == 1 and not {(file, title) for file in files([run])} & apart:
                runs.remove(run)
                titles[title, named[0]].append(run)
                titles[title, named[0]].sort(key=_first)
        if not runs:
            del titles[title, ""]


def _reading_order(rows: Sequence[Row], group: Sequence[int]) -> Sequence[int]:
    """A group in order of its ids; a row without one stays behind the row before it, and so does one that has the id of
    the row before it: one paragraph in two rows.
    """
    own = (rows[i].paragraph_id for i in group)
    ids = list(accumulate(own, lambda last, its: last if its is None else its, initial=-1))[1:]
    if all(map(lt, ids, islice(ids, 1, None))):
        return group
    order = sorted(zip(_sets(ids) or _repetitions(ids), ids, group, strict=True))
    return [i for _, _, i in order]


def _sets(ids: Sequence[int]) -> list[int]:
    """Of rows that lie in order, set after set (chapters, volumes): which set each is in. Empty for rows that do not.

    In order means that no id is lower than the one before it unless its set has had it: there the next set begins.
    Where many ids come again it also begins with one lower than all of its set, which then lacks its first rows.

    >>> _sets([1, 2, 1, 2, 3]), _sets([3, 1, 2, 3]), _sets([2, 3, 4, 1, 2, 3])
    ([0, 0, 1, 1, 1], [], [0, 0, 0, 1, 1, 1])
    """
    sets: list[int] = []
    seen: set[int] = set()
    last = lowest = -1
    runs = [identifier for identifier, _ in groupby(ids)]
    many = 4 * (len(runs) - len(set(runs))) > len(runs)
    for identifier in ids:
        again = identifier != last and (identifier in seen or (many and identifier < lowest))
        if identifier < last and not again:
            return []
        lowest = identifier if again or not sets else min(lowest, identifier)
        if again:
            seen.clear()
        seen.add(identifier)
        sets.append((sets[-1] if sets else 0) + again)
        last = identifier
    return sets


def _repetitions(ids: Sequence[int]) -> list[int]:
    """How often each id has come before, in a row counting once.

    >>> _repetitions([3, 3, 1, 3])
    [0, 0, 0, 1]
    """
    runs: Counter[int] = Counter()
    found: list[int] = []
    for last, identifier in zip([None, *ids], ids, strict=False):
        runs[identifier] += identifier != last
        found.append(runs[identifier] - 1)
    return found


def _numbered_in_sequence(texts: Sequence[str], firsts: Sequence[str]) -> set[int]:
    """Indices of rows that begin with a number which runs on from, or into, the number of another row."""
    starting = compress(count(), map(NUMBER_STARTS.__contains__, firsts))
    found = [
        (i, number)
        for i in starting
        if (number := number_at(texts[i], 0)) is not None and not (i and breaks_token(texts[i - 1], texts[i]))
    ]
    return {found[place][0] for place in in_sequence([number for _, number in found])}


def _between_windows(texts: Sequence[str], spaces: Spaces) -> list[str]:
    """What stands before each of some windows, none of them empty: nothing, a space or a line break."""
    firsts, lasts = list(map(_first, texts)), list(map(_last, texts))
    # Most rows are decided without a call for each.
    complete, uncertain = map(COMPLETE.__contains__, lasts), map(_UNCERTAIN.__contains__, firsts[1:])
    # gt on two booleans is set difference: row i starts a paragraph if row i-1 is in `complete` (its last character
    # ends a sentence) and row i is not in `uncertain` (its first character could still belong to that sentence).
    starts = [False, *map(gt, complete, uncertain)]
    breaks = list(map(("", "\n").__getitem__, starts))
    known = words_inside(texts) if spaces == "stripped" else frozenset[str]()
    for i in compress(count(1), map(not_, starts[1:])):
        last = lasts[i - 1]
        if last in MAY_END or (last < FIRST_WIDE and firsts[i] < FIRST_WIDE):
            breaks[i] = between(texts[i - 1], texts[i], spaces, known)
    numbered = map(NUMBER_STARTS.__contains__, firsts)
    undecided = compress(count(), map(gt, numbered, starts))  # numbered minus starts
    if any(i and breaks[i] != "\n" and number_at(texts[i], 0) for i in undecided):
        for i in _numbered_in_sequence(texts, firsts):
            breaks[i] = "\n" if i and lasts[i - 1] != "\n" else ""
    return breaks


def _between_lines(texts: Sequence[str]) -> list[str]:
    """The same where each text is a paragraph or a line of its own."""
    return ["", *("" if text.endswith("\n") else "\n" for text in texts[:-1])]


def join_rows(
    texts: Sequence[str], kind: RowKind = "window", spaces: Spaces = "unknown"
) -> tuple[str, list[int]]:
    """The rows' text, a line break before each row that begins a paragraph; and each row's first line, from 0.

    A window that breaks a sentence is joined as it stands, but for a space between two romanised words: none if
    `spaces` are kept at the rows' edges, one between any two words if they are lost, and what the text's own words
    say if they were stripped.

    >>> join_rows(["佇2010.09.", "20）彼工。", "隔轉工", "，阮去。"])
    ('佇2010.09.20）彼工。\\n隔轉工，阮去。', [0, 0, 1, 1])
    >>> join_rows(["一更更鼓月照山", "牽君的手摸心肝"], "line")
    ('一更更鼓月照山\\n牽君的手摸心肝', [0, 1])
    """
    filled = texts if all(texts) else [text for text in texts if text]
    if not filled:
        return "", [0] * len(texts)
    breaks = _between_windows(filled, spaces) if kind == "window" else _between_lines(filled)
    starts = list(map("\n".__eq__, breaks))
    parts = [""] * (2 * len(filled))
    parts[::2] = breaks
    parts[1::2] = filled
    joined = "".join(parts)
    if joined.count("\n") == sum(starts):
        inside = [0] * len(filled)
        lines = list(accumulate(starts[1:], initial=0))
    else:
        inside = [text.count("\n") for text in filled]
        lines = list(accumulate(map(add, starts, [0, *inside])))
    if len(filled) != len(texts):  # an empty row stands where the one before it ends
        ends = iter(zip(lines, map(add, lines, inside), strict=True))
        line, all_lines = 0, []
        for text in texts:
            first_line, line = next(ends) if text else (line, line)
            all_lines.append(first_line)
        lines = all_lines
    return joined, lines


def merge_rows(
    texts: Sequence[str],
    numbers: list[int],
    title: str | None,
    author: str | None,
    source: str,
    kind: RowKind = "window",
    spaces: Spaces = "unknown",
) -> Article:
    """The article of some rows' texts, in reading order; `numbers` are the rows' in their file, from 1."""
    text, lines = join_rows(texts, kind, spaces)
    if "\r" in text:
        texts = [text.replace("\r\n", "\n").replace("\r", "\n") for text in texts]
        text, lines = join_rows(texts, kind, spaces)
    return Article(name_of(title), name_of(author), source, text, numbers, lines)
