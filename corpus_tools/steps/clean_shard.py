"""One shard of the input: files read, merged and cleaned into files of articles; the caller gets counts and hashes."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from operator import attrgetter
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import msgspec

from corpus_tools.cleaning.optional_rules import extra_rules
from corpus_tools.documents import Article, CleanedArticle, Counts, OptionalRule, OwnRule, Row
from corpus_tools.errors import InputError
from corpus_tools.files.atomic import written_aside
from corpus_tools.files.contents import ReadLimits, read_bytes
from corpus_tools.files.readers import read_rows
from corpus_tools.files.row_values import BadRows
from corpus_tools.files.shard_file import Ends, store_shard
from corpus_tools.files.sources import Source
from corpus_tools.filtering.decontamination import read_questions
from corpus_tools.filtering.deduplication import NO_HASH, Sameness, hash_bytes, hash_text, key_of
from corpus_tools.steps.clean_articles import clean_articles
from corpus_tools.steps.executor import no_collector
from corpus_tools.steps.merge_rows import group_rows, merge_rows
from corpus_tools.steps.row_kinds import Evidence, RowKind, kind_of_rows

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
    """The rows of a shard's files, one file after the other: how many of each, which are bad, what they are."""

    rows: list[Row]
    counts: list[int]
    bad: list[BadRows]
    kinds: list[Evidence]


class ShardSummary(msgspec.Struct):
    """What the caller needs of a cleaned shard; all else is in the file `stored` of the work folder.

    `titles` and `articles` are hashes, 16 bytes an article (zeros: no title).
    """

    sources: list[str]
    sha256: list[str]
    sizes: list[int]
    rows: list[int] = []
    stored: str = ""
    ends: Ends = Ends(0, 0, 0, 0)
    titles: bytes = b""
    articles: bytes = b""
    characters: list[int] = []
    paragraph_counts: list[int] = []
    error: str = ""
    bad_rows: dict[str, str] = {}
    kinds: list[Evidence] = []


def read_input(source: Source) -> tuple[bytes, str]:
    """A file as stored, and its SHA-256 in hexadecimal digits.

    Raises:
        InputError: The file cannot be read.
    """
    data = read_bytes(source.path)
    return data, hashlib.sha256(data).hexdigest()


def clean_shard(
    sources: Sequence[Source],
    work_dir: Path,
    salt: str,
    options: ShardOptions,
    read: Callable[[Source], tuple[bytes, str]] = read_input,
) -> ShardSummary:
    """Clean the articles of some files into `work_dir`; a shard finished by an earlier, killed run is used again.

    `read` returns a file's bytes and SHA-256; a caller that has read the files in advance passes its own.

    Raises:
        InputError: A file cannot be used, unless `skip_bad_files`, which also leaves out bad rows of good files.
    """
    names = [source.name for source in sources]
    try:
        contents, sha256 = map(list, zip(*map(read, sources), strict=True))
        summary = ShardSummary(names, sha256, [len(data) for data in contents])
        key = hashlib.sha256("\n".join([salt, *names, *sha256]).encode()).hexdigest()[:32]
        finished = work_dir / f"{key}.summary"
        if finished.exists():
            return msgspec.msgpack.decode(finished.read_bytes(), type=ShardSummary)
        summary.stored = f"{key}.shard"
        with no_collector():
            _clean_rows(_read(sources, contents, options), summary, work_dir, options)
        with written_aside(finished) as aside:
            aside.write_bytes(msgspec.msgpack.encode(summary))
        return summary
    except InputError as error:
        if not options.skip_bad_files:
            raise
        return ShardSummary(names, [], [], error=str(error))


def _read(sources: Sequence[Source], contents: list[bytes], options: ShardOptions) -> ShardRows:
    """The rows of some files; their contents are forgotten one by one."""
    found = ShardRows([], [], [], [])
    for number, source in enumerate(sources):
        bad = BadRows()
        noted = bad if options.skip_bad_files else None
        rows = read_rows(source, options.fields, contents[number], options.limits, noted)
        contents[number] = b""
        found.counts.append(len(rows))
        found.bad.append(bad)
        found.kinds.append(kind_of_rows(rows) if options.rows == "auto" else Evidence(options.rows))
        found.rows.extend(rows)
    return found


def _clean_rows(given: ShardRows, summary: ShardSummary, work_dir: Path, options: ShardOptions) -> None:
    """Clean the rows of a shard article by article and store them."""
    ngrams = read_questions(options.questions, options.ngram) if options.questions else None
    summary.rows, summary.kinds = given.counts, given.kinds
    for source, bad in zip(summary.sources, given.bad, strict=True):
        summary.bad_rows |= {f"{source}, row {row}": reason for row, reason in bad.items()}
    counts = Counts(rows=len(given.rows))
    for source, rows in zip(summary.sources, given.counts, strict=True):
        counts.sources[source] = Counter(rows=rows)
    kinds: list[RowKind] = []
    texts: list[bytes] = []
    articles: list[CleanedArticle] = []
    hashes: list[_Hashes] = []
    merged = _merge(given, summary.sources, counts, kinds)
    extra = extra_rules(options.optional_rules, options.own_rules)
    cleaned = clean_articles(merged, counts, ngrams, options.convert_simplified, extra)
    for article, data, paragraphs in cleaned:
        _name_bad_rows(article, summary.bad_rows)
        kind = kinds[len(articles)]
        articles.append(article)
        texts.append(data)
        hashes.append(_hashes(article, paragraphs, kind, options))
        summary.characters.append(article.length)
        summary.paragraph_counts.append(len(paragraphs))
    counts.articles = len(articles)
    summary.titles = b"".join([h.title for h in hashes])
    summary.articles = b"".join([h.article for h in hashes])
    of_paragraphs = [h.paragraphs for h in hashes]
    summary.ends = store_shard(work_dir / summary.stored, texts, of_paragraphs, articles, counts)


def _name_bad_rows(article: CleanedArticle, bad_rows: Mapping[str, str]) -> None:
    """An empty article may stand for a row that could not be used."""
    for cut in article.cuts if bad_rows and not article.length else ():
        if f"{article.source}, row {cut.row}" in bad_rows:
            cut.reason = "bad_row"


def _merge(
    given: ShardRows, sources: Sequence[str], counts: Counts, kinds: list[RowKind]
) -> Iterator[Article]:
    """The articles of some rows; `kinds` gets what the rows of each are."""
    of_source = [source for source, count in enumerate(given.counts) for _ in range(count)]
    numbers = list(chain.from_iterable(range(1, count + 1) for count in given.counts))
    rows, texts = given.rows, list(map(attrgetter("text"), given.rows))
    for group in group_rows(rows, of_source if len(sources) > 1 else None):
        first, source = rows[group[0]], of_source[group[0]]
        author = first.author or next((rows[i].author for i in group if rows[i].author), None)
        windows = _of_group(texts, group)
        kind = given.kinds[source].kind
        article = merge_rows(windows, _of_group(numbers, group), first.title, author, sources[source], kind)
        raw = sum(map(len, windows))
        counts.line_breaks += len(article.text) - raw
        counts.characters += raw
        counts.sources[sources[source]].update(articles=1, characters=raw)
        kinds.append(kind)
        yield article


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
    title = hash_text(f"{article.title}\n{article.author}") if article.title else NO_HASH
    keys = paragraphs if options.duplicates == "exact" else map(key_of(options.duplicates), paragraphs)
    digests = list(map(hash_bytes, keys))
    together = b"".join(digests)
    if kind == "line":  # songs share lines: only whole ones are copies
        return _Hashes(title, hash_bytes(together), NO_HASH * len(digests))
    short = [i for i, size in enumerate(map(len, paragraphs)) if size < surely]
    for i in short:
        if len(paragraphs[i]) < least or len(paragraphs[i].decode()) < least:
            digests[i] = NO_HASH
    return _Hashes(title, hash_bytes(together), b"".join(digests) if short else together)
