"""One shard of the input: files read, merged and cleaned into a file of articles; the caller gets counts and hashes."""

from __future__ import annotations

import gc
import hashlib
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path

import msgspec

from corpus_tools.characters import TAIGI_MARKERS, census, looks_simplified
from corpus_tools.cleaning import Step, clean_steps
from corpus_tools.decontamination import QuestionNgrams, find_overlaps, read_questions
from corpus_tools.deduplication import hash_bytes, hash_text
from corpus_tools.documents import Article, CleanedArticle, Cut, Row, Tally
from corpus_tools.errors import InputError
from corpus_tools.merging import group_rows, merge_rows, repeated_rows
from corpus_tools.reading import Source, read_bytes, read_rows
from corpus_tools.writing import written_aside

SAMPLES = 4  # of a rule, a shard
_OWN_RIGHT = frozenset("台个庄才干里欲娘" + TAIGI_MARKERS)
_EMPTY_LINE = re.compile("\n\n")  # faster than `in`
_LISTED = ("urls", "numbering")  # rules whose every removal is listed in dropped.parquet


class ShardSummary(msgspec.Struct):
    """What the caller needs of a cleaned shard: hashes, 16 bytes each, and counts."""

    sources: list[str]
    sha256: list[str]
    sizes: list[int]
    rows: list[int]
    stored: str
    tally: Tally
    titles: list[bytes] = []
    articles: bytes = b""
    characters: list[int] = []
    paragraph_counts: list[int] = []
    paragraphs: bytes = b""
    long_enough: bytes = b""
    error: str = ""


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
) -> ShardSummary:
    """Clean the articles of some files into `work_dir`; a shard finished by an earlier, killed run is used again.

    Raises:
        InputError: A file cannot be used, unless `skip_bad_files`.
    """
    rows: list[Row] = []
    of_source: list[int] = []
    summary = ShardSummary([], [], [], [], "", Tally())
    contents: list[bytes] = []
    gc_was_on = gc.isenabled()
    gc.disable()  # hundreds of thousands of plain records: nothing for the collector to find
    try:
        for source in sources:
            data = read_bytes(source.path)
            contents.append(data)
            summary.sources.append(source.name)
            summary.sizes.append(len(data))
            summary.sha256.append(hashlib.sha256(data).hexdigest())
        key = hashlib.sha256("\n".join([salt, *summary.sources, *summary.sha256]).encode()).hexdigest()[:32]
        finished = work_dir / f"{key}.summary"
        if finished.exists():
            return msgspec.msgpack.decode(finished.read_bytes(), type=ShardSummary, dec_hook=_as_counter)
        for number, source in enumerate(sources):
            found = read_rows(source.path, fields, contents[number])
            contents[number] = b""
            summary.rows.append(len(found))
            rows += found
            of_source += [number] * len(found)
        ngrams = read_questions(questions, ngram) if questions else None
        cleaned = _clean_rows(rows, of_source, summary, min_paragraph_chars, ngrams, convert_simplified)
        summary.stored = f"{key}.articles"
        with written_aside(work_dir / summary.stored) as aside:
            aside.write_bytes(msgspec.msgpack.encode(cleaned))
        with written_aside(finished) as aside:
            aside.write_bytes(msgspec.msgpack.encode(summary))
        return summary
    except InputError as error:
        if not skip_bad_files:
            raise
        names = [source.name for source in sources]
        return ShardSummary(names, [], [], [], "", Tally(), error=str(error))
    finally:
        if gc_was_on:
            gc.enable()


def _as_counter(kind: type, value: dict[str, int]) -> Counter[str]:
    """msgspec knows no Counter: it reads a dict and asks here."""
    return Counter(value)


def _clean_rows(
    rows: Sequence[Row],
    of_source: Sequence[int],
    summary: ShardSummary,
    min_paragraph_chars: int,
    ngrams: QuestionNgrams | None,
    convert_simplified: bool,
) -> list[CleanedArticle]:
    tally = summary.tally
    tally.rows = len(rows)
    numbers = [n for count in summary.rows for n in range(1, count + 1)]
    cleaned: list[CleanedArticle] = []
    for group in group_rows(rows, of_source if len(summary.sources) > 1 else None):
        first = rows[group[0]]
        texts, numbers_here = [rows[i].text for i in group], [numbers[i] for i in group]
        cuts = []
        if repeated := repeated_rows(texts, min_paragraph_chars):
            cuts = [Cut(numbers_here[i], 1, "repeated_row", texts[i]) for i in sorted(repeated)]
            kept = [i for i in range(len(group)) if i not in repeated]
            texts, numbers_here = [texts[i] for i in kept], [numbers_here[i] for i in kept]
        source = summary.sources[of_source[group[0]]]
        article = merge_rows(texts, numbers_here, first.title, first.author, source)
        raw = sum(map(len, texts))
        tally.line_breaks += len(article.text) - raw
        tally.characters += raw + sum([len(cut.text) for cut in cuts])
        result = clean_article(article, tally, convert_simplified)
        result.cuts += cuts
        if ngrams is not None:
            drop_overlaps(result, ngrams, tally)
        cleaned.append(result)
    _summarise(cleaned, summary, min_paragraph_chars)
    return cleaned


def _summarise(cleaned: Sequence[CleanedArticle], summary: ShardSummary, min_paragraph_chars: int) -> None:
    """Counts and hashes of each article and each paragraph."""
    hashes, paragraph_hashes, long_enough = [], [], bytearray()
    # Bytes decide for most paragraphs: a character has one to four.
    least, surely = min_paragraph_chars, 4 * min_paragraph_chars
    for article in cleaned:
        paragraphs = article.text.split(b"\n") if article.text else []
        digests = b"".join(map(hash_bytes, paragraphs))
        paragraph_hashes.append(digests)
        hashes.append(hash_bytes(digests))
        long_enough += bytes(
            [len(p) >= surely or (len(p) >= least and len(p.decode()) >= least) for p in paragraphs]
        )
        summary.characters.append(article.length)
        summary.paragraph_counts.append(len(paragraphs))
        summary.titles.append(hash_text(f"{article.title}\n{article.author}") if article.title else b"")
    summary.articles, summary.paragraphs = b"".join(hashes), b"".join(paragraph_hashes)
    summary.long_enough = bytes(long_enough)
    summary.tally.articles = len(cleaned)


def clean_article(article: Article, tally: Tally, convert_simplified: bool = False) -> CleanedArticle:
    """The rules applied to an article, counted in `tally`."""
    text = article.text
    cuts: list[Cut] = []
    if convert_simplified and looks_simplified(census(text)):
        text = _to_traditional(text)
        tally.converted_articles += 1
    for step in clean_steps(text):
        _count(step, article, tally, cuts)
        text = step.after
    names = (article.title, article.author, article.source)
    # The first row that begins on each line on which any does, last line first; and how many begin there.
    first_on = dict(zip(reversed(article.first_lines), reversed(article.rows), strict=True))
    rows_on = Counter(article.first_lines)
    breaks = text.count("\n")
    if len(first_on) == breaks + 1 and text[:1] != "\n" != text[-1:] and not _EMPTY_LINE.search(text):
        rows, counts = list(first_on.values())[::-1], list(rows_on.values())
        return CleanedArticle(*names, len(text), len(text), text.encode(), rows, counts, cuts)
    lines = text.split("\n")
    rows, counts, row = [], [], article.rows[0]
    for number, line in enumerate(lines):
        row = first_on.get(number, row)
        if line:
            rows.append(row)
            counts.append(rows_on[number])
    if emptied := len(article.rows) - sum(counts):
        cuts.append(Cut(article.rows[0], emptied, "empty", ""))
    shown = "\n".join([line for line in lines if line])
    return CleanedArticle(*names, len(text), len(shown), shown.encode(), rows, counts, cuts)


def _to_traditional(text: str) -> str:
    import opencc

    # Character by character, but for those that are Traditional (and Taigi) in their own right.
    converter = opencc.OpenCC("s2t")
    return text.translate({ord(c): converter.convert(c) for c in set(text) - _OWN_RIGHT})


def _count(step: Step, article: Article, tally: Tally, cuts: list[Cut]) -> None:
    tally.changes[step.rule] += len(step.log)
    tally.removed[step.rule] += len(step.before) - len(step.after)
    if step.rule in _LISTED:
        line = at = 0
        for position, stretch in step.log:
            line += step.before.count("\n", at, position)
            at = position
            row = article.rows[bisect_right(article.first_lines, line) - 1]
            cuts.append(Cut(row, 0, step.rule, stretch))
    else:
        if step.rule not in tally.stretches:
            tally.stretches[step.rule] = Counter()
        tally.stretches[step.rule].update([stretch for _, stretch in step.log])
    samples = tally.samples.setdefault(step.rule, [])
    if len(samples) < SAMPLES:
        samples.append(_sample(step, article))


def _sample(step: Step, article: Article) -> dict[str, str]:
    """The first change of a step in its surroundings, before and after."""
    position = step.log[0][0]
    line = step.before.count("\n", 0, position)
    before, after = step.before.split("\n")[line], step.after.split("\n")[line]
    start = max(0, position - (step.before.rfind("\n", 0, position) + 1) - 15)
    return {
        "source": article.source,
        "title": article.title,
        "before": before[start : start + 60],
        "after": after[start : start + 60],
    }


def drop_overlaps(article: CleanedArticle, ngrams: QuestionNgrams, tally: Tally) -> None:
    """Take out the paragraphs that hold, wholly or in part, an n-gram of a question, until none does."""
    while True:
        text = article.text.decode()
        overlaps = find_overlaps(text, ngrams)
        if not overlaps:
            return
        paragraphs = text.split("\n")
        ends = list(accumulate(len(paragraph) + 1 for paragraph in paragraphs))
        hit: dict[int, tuple[str, str]] = {}
        for overlap in overlaps:
            first, last = bisect_right(ends, overlap.start), bisect_right(ends, overlap.end - 1)
            for line in range(first, last + 1):
                hit.setdefault(line, (overlap.question, text[overlap.start : overlap.end]))
        for line in sorted(hit, reverse=True):
            paragraph, row = paragraphs.pop(line), article.first_rows.pop(line)
            article.cuts.append(Cut(row, article.row_counts.pop(line), "contaminated", paragraph))
            question, shared = hit[line]
            where = {"source": article.source, "title": article.title, "row": str(row)}
            tally.hits.append({"question": question, "shared": shared, **where})
        text = "\n".join(paragraphs)
        article.text, article.length = text.encode(), len(text)
