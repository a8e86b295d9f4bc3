"""Training text that shares n-grams with the evaluation questions, found exactly.

Texts are compared by their letters and digits alone, in one case: punctuation, spaces and line breaks are
ignored. A Han character counts one and so does a romanised syllable or word: a shared word is no overlap. A vectorised
rolling hash finds candidates; every candidate is checked letter by letter.
"""

from __future__ import annotations

import csv
import io
from bisect import bisect_right
from collections.abc import Sequence
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from corpus_tools.cleaning.rules import clean_text
from corpus_tools.cleaning.units import Units, units_of
from corpus_tools.documents import Cut
from corpus_tools.errors import InputError
from corpus_tools.windows import explain_windows, other_encoding

_COLUMNS = ("文章", "前文", "題幹", "問題")
_BUCKETS = 1 << 20


class Overlap(NamedTuple):
    """Characters `start` to `end` of a text hold an n-gram of the question named."""

    start: int
    end: int
    question: str


class QuestionNgrams(NamedTuple):
    """n-grams of the questions: each n-gram's first question, and the buckets their hashes fall into."""

    n: int
    questions: dict[str, str]
    buckets: npt.NDArray[np.bool_]


def _key(text: str, units: Units, first: int, n: int) -> str:
    """n units as text, to compare them by."""
    spans = zip(units.starts[first : first + n].tolist(), units.ends[first : first + n].tolist(), strict=True)
    return " ".join(_letters_of(text[start:end]) for start, end in spans)


def _letters_of(word: str) -> str:
    return "".join(c.lower() for c in word if c.isalnum())


def _rolling_hashes(letters: npt.NDArray[np.uint64], n: int) -> npt.NDArray[np.int64]:
    """Bucket of each n-gram, by doubling: hash(2k) = hash(k) * base**k + hash(k) shifted by k."""
    base = 0x9E3779B97F4A7C15
    total, done = np.zeros(max(0, len(letters) - n + 1), np.uint64), 0
    power, width = letters * np.uint64(0xBF58476D1CE4E5B9), 1
    while done < n:
        if n & width:
            shift = np.uint64(pow(base, width, 1 << 64))
            total = total * shift + power[done : done + len(total)]
            done += width
        if done < n:
            shift = np.uint64(pow(base, width, 1 << 64))
            power = power[:-width] * shift + power[width:] if len(power) > width else power[:0]
            width *= 2
    return (total >> np.uint64(44)).astype(np.int64)


@cache
def read_questions(path: Path, n: int) -> QuestionNgrams:
    """The n-grams of a question file's passages and questions (columns 文章, 前文, 題幹, 問題).

    Raises:
        InputError: The file cannot be read or has none of the columns.
    """
    try:
        data = path.read_bytes()
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise InputError(
            f"{path}: {error}; {explain_windows(error) or 'give a UTF-8 CSV file of questions'}."
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: byte {error.start} is not UTF-8; give a UTF-8 CSV file of questions.{other_encoding(data)}"
        ) from error
    records = csv.reader(io.StringIO(text, newline=""))
    header = [name.strip() for name in next(records, [])]
    columns = [i for i, name in enumerate(header) if name in _COLUMNS]
    if not columns:
        raise InputError(
            f"{path}: columns are {', '.join(header) or 'none'}; wanted one of {', '.join(_COLUMNS)}."
        )
    names = header.index("ID") if "ID" in header else len(header)
    texts = []
    for number, record in enumerate(filter(None, records), 1):
        name = record[names] if names < len(record) else f"row {number}"
        # A comma without quotes moves what stands behind it into other columns: then all of the row counts.
        whole = (
            [",".join(record)]
            if len(record) > len(header)
            else [record[i] for i in columns if i < len(record)]
        )
        texts += [(name or f"row {number}", value) for value in whole]
    return index_questions(texts, n)


def index_questions(texts: Sequence[tuple[str, str]], n: int) -> QuestionNgrams:
    """The n-grams of (question id, text) pairs."""
    questions: dict[str, str] = {}
    buckets = np.zeros(_BUCKETS, np.bool_)
    for name, text in texts:
        cleaned = clean_text(text)
        units = units_of(cleaned)
        buckets[_rolling_hashes(units.hashes, n)] = True
        for i in range(len(units.hashes) - n + 1):
            questions.setdefault(_key(cleaned, units, i, n), name)
    return QuestionNgrams(n, questions, buckets)


def find_overlaps(text: str, ngrams: QuestionNgrams) -> list[Overlap]:
    """Every place of a text that shares an n-gram with a question, in order.

    >>> grams = index_questions([("12537", "阮兜佇台南的海邊仔")], 5)
    >>> find_overlaps("伊講：阮兜，\\n佇台南市", grams)
    [Overlap(start=3, end=10, question='12537')]
    """
    units, n = units_of(text), ngrams.n
    if len(units.hashes) < n:
        return []
    found: list[Overlap] = []
    for i in np.flatnonzero(ngrams.buckets[_rolling_hashes(units.hashes, n)]).tolist():
        question = ngrams.questions.get(_key(text, units, i, n))
        if question is not None:
            found.append(Overlap(int(units.starts[i]), int(units.ends[i + n - 1]), question))
    return found


def drop_overlaps(
    text: str, first_rows: list[int], row_counts: list[int], ngrams: QuestionNgrams
) -> tuple[str, list[Cut], list[dict[str, str]]]:
    """Take out the paragraphs that hold, wholly or in part, an n-gram of a question, until none does.

    Their rows are taken out of `first_rows` and `row_counts`. Returns the text left, the paragraphs, and for
    each the question and the text they share.
    """
    cuts: list[Cut] = []
    hits: list[dict[str, str]] = []
    while overlaps := find_overlaps(text, ngrams):
        paragraphs = text.split("\n")
        ends = list(accumulate(len(paragraph) + 1 for paragraph in paragraphs))
        hit: dict[int, Overlap] = {}
        for overlap in overlaps:
            first, last = bisect_right(ends, overlap.start), bisect_right(ends, overlap.end - 1)
            for line in range(first, last + 1):
                hit.setdefault(line, overlap)
        for line in sorted(hit, reverse=True):
            row, rows = first_rows.pop(line), row_counts.pop(line)
            cuts.append(Cut(row, rows, "contaminated", paragraphs.pop(line)))
            start, end, question = hit[line]
            hits.append({"question": question, "shared": text[start:end], "row": str(row)})
        text = "\n".join(paragraphs)
    return text, cuts, hits
