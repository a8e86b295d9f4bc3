"""One shard of the input: files read, merged and cleaned into files of articles; the caller gets counts and hashes."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import msgspec
import numpy as np

from corpus_tools.cleaning.optional_rules import extra_rules
from corpus_tools.documents import Article, CleanedArticle, Counts, OptionalRule, OwnRule, Row, key_of_name
from corpus_tools.errors import InputError
from corpus_tools.files.atomic import written_aside
from corpus_tools.files.contents import ReadLimits, read_bytes
from corpus_tools.files.readers import read_rows
from corpus_tools.files.row_values import BadRows
from corpus_tools.files.shard_file import Ends, Hashes, ShardFile, store_shard
from corpus_tools.files.sources import Source
from corpus_tools.filtering.decontamination import read_questions
from corpus_tools.filtering.deduplication import NO_HASH, Sameness, hash_bytes, hash_names, key_of
from corpus_tools.steps.clean_articles import clean_articles
from corpus_tools.steps.executor import no_collector
from corpus_tools.steps.merge_rows import group_rows, merge_rows
from corpus_tools.steps.row_kinds import Evidence, RowKind, is_verse, kind_of_rows
from corpus_tools.steps.units import StoredRow, Unit, rows_in, stored_bytes

T = TypeVar("T")


class ShardOptions(NamedTuple):
    """How shards are cleaned: what a row is ("auto": judged file by file), what may repeat, what is left out.

    `questions` is the file of evaluation questions, with n-grams of `ngram` units.
    """

    fields: Mapping[str, str]
    rows: RowKind | Literal["auto"] = "auto"
    min_paragraph_chars: int = 30
    questions: Path | None = None
    ngram: int = 13
    duplicates: Sameness = "exact"
    convert_simplified: bool = False
    optional_rules: tuple[OptionalRule, ...] = ()
    own_rules: tuple[OwnRule, ...] = ()
    skip_bad_files: bool = False
    limits: ReadLimits = ReadLimits()


class ShardRows(NamedTuple):
    """Rows of a shard: from which of its sources each is and its number there, from 1; what each source's rows are.

    `bad` has the rows that cannot be used, by their names, with the reasons.
    """

    rows: list[Row]
    of_source: list[int]
    numbers: list[int]
    kinds: list[Evidence]
    bad: dict[str, str]


class ShardSummary(msgspec.Struct):
    """What the caller needs of a cleaned shard; all else is in the file `stored` of the work folder.

    `articles`, `paragraphs` and `characters` are counts. Hashes, sizes and rows are those of files read whole.
    """

    sources: list[str]
    sha256: list[str] = []
    sizes: list[int] = []
    rows: list[int] = []
    stored: str = ""
    ends: Ends = Ends()
    articles: int = 0
    paragraphs: int = 0
    characters: int = 0
    error: str = ""
    bad_rows: dict[str, str] = {}
    kinds: list[Evidence] = []

    def file(self, work_dir: Path) -> ShardFile | None:
        """The shard's file; None if its sources could not be used."""
        return ShardFile(work_dir / self.stored, self.ends) if self.stored else None


def read_input(source: Source) -> tuple[bytes, str]:
    """A file as stored, and its SHA-256 in hexadecimal digits.

    Raises:
        InputError: The file cannot be read.
    """
    data = read_bytes(source.path)
    return data, hashlib.sha256(data).hexdigest()


def clean_shard(
    unit: Unit,
    work_dir: Path,
    salt: str,
    options: ShardOptions,
    read: Callable[[Source], tuple[bytes, str]] = read_input,
) -> ShardSummary:
    """Clean the articles of a unit into `work_dir`; a shard finished by an earlier, killed run is used again.

    `read` returns a file's bytes and SHA-256; a caller that has read the files in advance passes its own.

    Raises:
        InputError: A file cannot be used, unless `skip_bad_files`, which also leaves out bad rows of good files.
    """
    names = [source.name for source in unit.sources]
    try:
        contents, about = _contents(unit, read)
        key = hashlib.sha256("\n".join([salt, *names, *about]).encode()).hexdigest()[:32]
        finished = work_dir / f"{key}.summary"
        if finished.exists():
            return msgspec.msgpack.decode(finished.read_bytes(), type=ShardSummary)
        summary = ShardSummary(names, stored=f"{key}.shard")
        if not unit.kinds:
            summary.sha256, summary.sizes = about, list(map(len, contents))
        with no_collector():
            given = read_unit(unit, contents, options)
            if not unit.kinds:
                summary.rows = [given.of_source.count(i) for i in range(len(names))]
                summary.bad_rows = given.bad
            _clean_rows(given, unit, summary, work_dir, options)
        with written_aside(finished) as aside:
            aside.write_bytes(msgspec.msgpack.encode(summary))
        return summary
    except InputError as error:
        if not options.skip_bad_files:
            raise
        return ShardSummary(names, error=str(error))


def _contents(
    unit: Unit, read: Callable[[Source], tuple[bytes, str]] = read_input
) -> tuple[list[bytes], list[str]]:
    """The bytes that hold a unit's rows, and what tells them from others: hashes, and what is known of the rows."""
    data = stored_bytes(unit)
    if data is None:
        contents, sha256 = zip(*map(read, unit.sources), strict=True)
        return list(contents), list(sha256)
    return [data], [hashlib.sha256(data).hexdigest(), repr(unit.kinds), repr(sorted(unit.apart))]


def read_unit(unit: Unit, contents: list[bytes] | None, options: ShardOptions) -> ShardRows:
    """The rows of a unit; the `contents` of its files, if they have been read, are forgotten one by one."""
    contents = _contents(unit)[0] if contents is None else contents
    if unit.kinds:
        return _stored_rows(unit, rows_in(contents.pop()))
    found = ShardRows([], [], [], [], {})
    for number, source in enumerate(unit.sources):
        bad = BadRows()
        noted = bad if options.skip_bad_files else None
        rows = read_rows(source, options.fields, contents[number], options.limits, noted)
        contents[number] = b""
        found.of_source.extend([number] * len(rows))
        found.numbers.extend(range(1, len(rows) + 1))
        found.bad.update({f"{source.name}, row {row}": reason for row, reason in bad.items()})
        found.kinds.append(kind_of_rows(rows) if options.rows == "auto" else Evidence(options.rows))
        found.rows.extend(rows)
    return found


def _stored_rows(unit: Unit, stored: Sequence[StoredRow]) -> ShardRows:
    names = [source.name for source in unit.sources]
    return ShardRows(
        [Row(row.text, row.title, row.author, row.paragraph_id) for row in stored],
        [row.source for row in stored],
        [row.number for row in stored],
        list(unit.kinds),
        {f"{names[row.source]}, row {row.number}": "" for row in stored if row.bad},
    )


def _clean_rows(
    given: ShardRows, unit: Unit, summary: ShardSummary, work_dir: Path, options: ShardOptions
) -> None:
    """Clean the rows of a shard article by article and store them."""
    ngrams = read_questions(options.questions, options.ngram) if options.questions else None
    summary.kinds = given.kinds
    counts = Counts(rows=len(given.rows))
    rows_of = Counter(given.of_source)
    for number, name in enumerate(summary.sources):  # also files that have none
        counts.sources[name] = Counter(rows=rows_of[number])
    kinds: list[RowKind] = []
    texts: list[bytes] = []
    articles: list[CleanedArticle] = []
    hashes: list[_Hashes] = []
    merged = articles_of(given, unit, counts, kinds)
    extra = extra_rules(options.optional_rules, options.own_rules)
    cleaned = clean_articles(merged, counts, ngrams, options.convert_simplified, extra)
    for article, data, paragraphs in cleaned:
        _name_bad_rows(article, given.bad)
        kind = kinds[len(articles)]
        articles.append(article)
        texts.append(data)
        hashes.append(_hashes(article, paragraphs, kind, options))
        summary.characters += article.length
        summary.paragraphs += len(paragraphs)
    counts.articles = summary.articles = len(articles)
    sections: dict[Hashes, Sequence[bytes]] = {
        "paragraphs": [h.paragraphs for h in hashes],
        "titles": [h.title for h in hashes],
        "keys": [h.article for h in hashes],
    }
    summary.ends = store_shard(work_dir / summary.stored, texts, sections, articles, counts)


def _name_bad_rows(article: CleanedArticle, bad_rows: Mapping[str, str]) -> None:
    """An empty article may stand for a row that could not be used."""
    for cut in article.cuts if bad_rows and not article.length else ():
        if f"{article.source}, row {cut.row}" in bad_rows:
            cut.reason = "bad_row"


def articles_of(given: ShardRows, unit: Unit, counts: Counts, kinds: list[RowKind]) -> Iterator[Article]:
    """The articles of a unit's rows, counted; `kinds` gets what the rows of each are."""
    rows, of_source, numbers = given.rows, given.of_source, given.numbers
    texts = list(map(attrgetter("text"), rows))
    apart = _titles_apart(given, unit.apart)
    for group in group_rows(rows, of_source if len(unit.sources) > 1 else None, apart):
        first, source = rows[group[0]], of_source[group[0]]
        author = first.author or next((rows[i].author for i in group if rows[i].author), None)
        windows = _of_group(texts, group)
        name, seen = unit.sources[source].name, given.kinds[source]
        of_rows = _of_group(numbers, group)
        article = merge_rows(windows, of_rows, first.title, author, name, seen.kind, seen.spaces)
        raw = sum(map(len, windows))
        counts.line_breaks += len(article.text) - raw
        counts.characters += raw
        counts.sources[name].update(articles=1, characters=raw)
        found = {
            "title": article.title,
            "author": article.author,
            "paragraph_id": first.paragraph_id is not None,
        }
        counts.fields.update(name for name, value in found.items() if value)
        kinds.append(seen.kind)
        yield article


def _titles_apart(given: ShardRows, apart: frozenset[tuple[int, int]]) -> frozenset[tuple[int, str]]:
    """The titles themselves, each with the source in which it is so."""
    if not apart:
        return frozenset()
    named = {
        (source, row.title) for source, row in zip(given.of_source, given.rows, strict=True) if row.title
    }
    return frozenset(
        (source, key_of_name(title))
        for source, title in named
        if (source, hash_names(title, None)[0]) in apart
    )


def _of_group(values: list[T], group: Sequence[int]) -> list[T]:
    return values[group.start : group.stop] if isinstance(group, range) else [values[i] for i in group]


class _Hashes(NamedTuple):
    """Of an article: its title and author, its text, its paragraphs; `NO_HASH` for what may repeat."""

    title: bytes
    article: bytes
    paragraphs: bytes


def _hashes(
    article: CleanedArticle, paragraphs: Sequence[bytes], kind: RowKind, options: ShardOptions
) -> _Hashes:
    # Bytes decide for most paragraphs: a character has one to four.
    least, surely = options.min_paragraph_chars, 4 * options.min_paragraph_chars
    names = hash_names(article.title, article.author) if article.title else (0, 0)
    title = np.array(names, np.uint64).tobytes()
    keys = paragraphs if options.duplicates == "exact" else map(key_of(options.duplicates), paragraphs)
    digests = list(map(hash_bytes, keys))
    together = b"".join(digests)
    # Songs share lines: only whole ones are copies.
    if kind == "line" or is_verse(paragraphs):
        return _Hashes(title, hash_bytes(together), NO_HASH * len(digests))
    short = [i for i, size in enumerate(map(len, paragraphs)) if size < surely]
    for i in short:
        if len(paragraphs[i]) < least or len(paragraphs[i].decode()) < least:
            digests[i] = NO_HASH
    return _Hashes(title, hash_bytes(together), b"".join(digests) if short else together)
