"""One shard of the input: files read, merged and cleaned into files of articles; the caller gets counts and hashes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec

from corpus_tools.documents import Article, CleanedArticle, Counts, Cut, Row
from corpus_tools.errors import InputError
from corpus_tools.files.atomic import written_aside
from corpus_tools.files.readers import Source, read_bytes, read_rows
from corpus_tools.files.shard_file import Ends, store_shard
from corpus_tools.filtering.decontamination import QuestionNgrams, read_questions
from corpus_tools.filtering.deduplication import NO_HASH, hash_bytes, hash_text
from corpus_tools.steps.clean_articles import clean_articles
from corpus_tools.steps.executor import no_collector
from corpus_tools.steps.merge_rows import group_rows, merge_rows, repeated_rows

T = TypeVar("T")


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
    *,
    fields: Mapping[str, str],
    min_paragraph_chars: int,
    questions: Path | None,
    ngram: int,
    convert_simplified: bool,
    skip_bad_files: bool,
    read: Callable[[Source], tuple[bytes, str]] = read_input,
) -> ShardSummary:
    """Clean the articles of some files into `work_dir`; a shard finished by an earlier, killed run is used again.

    `read` returns a file's bytes and SHA-256; a caller that has read the files in advance passes its own.

    Raises:
        InputError: A file cannot be used, unless `skip_bad_files`.
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
            rows: list[Row] = []
            for number, source in enumerate(sources):
                found = read_rows(source.path, fields, contents[number])
                contents[number] = b""
                summary.rows.append(len(found))
                rows += found
            ngrams = read_questions(questions, ngram) if questions else None
            _clean_rows(rows, summary, work_dir, min_paragraph_chars, ngrams, convert_simplified)
        with written_aside(finished) as aside:
            aside.write_bytes(msgspec.msgpack.encode(summary))
        return summary
    except InputError as error:
        if not skip_bad_files:
            raise
        return ShardSummary(names, [], [], error=str(error))


def _clean_rows(
    rows: Sequence[Row],
    summary: ShardSummary,
    work_dir: Path,
    min_paragraph_chars: int,
    ngrams: QuestionNgrams | None,
    convert_simplified: bool,
) -> None:
    """Clean the rows of a shard article by article and store them."""
    counts = Counts(rows=len(rows))
    repeated: list[list[Cut]] = []
    merged = _merge(rows, summary, counts, min_paragraph_chars, repeated)
    texts: list[bytes] = []
    articles: list[CleanedArticle] = []
    hashes: list[_Hashes] = []
    for article, data, paragraphs in clean_articles(merged, counts, ngrams, convert_simplified):
        article.cuts += repeated[len(articles)]
        articles.append(article)
        texts.append(data)
        hashes.append(_hashes(article, paragraphs, min_paragraph_chars))
        summary.characters.append(article.length)
        summary.paragraph_counts.append(len(paragraphs))
    counts.articles = len(articles)
    summary.titles = b"".join([h.title for h in hashes])
    summary.articles = b"".join([h.article for h in hashes])
    of_paragraphs = [h.paragraphs for h in hashes]
    summary.ends = store_shard(work_dir / summary.stored, texts, of_paragraphs, articles, counts)


def _merge(
    rows: Sequence[Row],
    summary: ShardSummary,
    counts: Counts,
    min_paragraph_chars: int,
    repeated: list[list[Cut]],
) -> Iterator[Article]:
    """The articles of some rows; for each of them, `repeated` gets the rows that repeat an earlier one."""
    of_source = [source for source, count in enumerate(summary.rows) for _ in range(count)]
    numbers = list(chain.from_iterable(range(1, count + 1) for count in summary.rows))
    texts = list(map(attrgetter("text"), rows))
    for group in group_rows(rows, of_source if len(summary.sources) > 1 else None):
        first, source = rows[group[0]], summary.sources[of_source[group[0]]]
        windows, numbers_here = _of_group(texts, group), _of_group(numbers, group)
        windows, numbers_here, repeats = _without_repeats(windows, numbers_here, min_paragraph_chars)
        article = merge_rows(windows, numbers_here, first.title, first.author, source)
        raw = sum(map(len, windows))
        counts.line_breaks += len(article.text) - raw
        counts.characters += raw + sum([len(cut.text) for cut in repeats])
        repeated.append(repeats)
        yield article


def _of_group(values: list[T], group: Sequence[int]) -> list[T]:
    return values[group.start : group.stop] if isinstance(group, range) else [values[i] for i in group]


def _without_repeats(
    texts: list[str], numbers: list[int], min_paragraph_chars: int
) -> tuple[list[str], list[int], list[Cut]]:
    """The texts and numbers of an article's rows, less those that repeat an earlier row of it, and these."""
    repeated = repeated_rows(texts, min_paragraph_chars)
    if not repeated:
        return texts, numbers, []
    cuts = [Cut(numbers[i], 1, "repeated_row", texts[i]) for i in sorted(repeated)]
    kept = [i for i in range(len(texts)) if i not in repeated]
    return [texts[i] for i in kept], [numbers[i] for i in kept], cuts


class _Hashes(NamedTuple):
    """Of an article: its title and author, its text, its paragraphs; `NO_HASH` for what may repeat."""

    title: bytes
    article: bytes
    paragraphs: bytes


def _hashes(article: CleanedArticle, paragraphs: Sequence[bytes], min_paragraph_chars: int) -> _Hashes:
    # Bytes decide for most paragraphs: a character has one to four.
    least, surely = min_paragraph_chars, 4 * min_paragraph_chars
    title = hash_text(f"{article.title}\n{article.author}") if article.title else NO_HASH
    digests = list(map(hash_bytes, paragraphs))
    together = b"".join(digests)
    short = [i for i, size in enumerate(map(len, paragraphs)) if size < surely]
    for i in short:
        if len(paragraphs[i]) < least or len(paragraphs[i].decode()) < least:
            digests[i] = NO_HASH
    return _Hashes(title, hash_bytes(together), b"".join(digests) if short else together)
