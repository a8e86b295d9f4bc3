"""From input files to the corpus folder: the one file that knows the order of the steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from corpus_tools import writing
from corpus_tools.characters import census, taigi_score
from corpus_tools.cleaning import clean_and_count
from corpus_tools.deduplication import hash_text
from corpus_tools.errors import InputError
from corpus_tools.merging import group_rows, merge_rows
from corpus_tools.reading import find_sources, read_rows
from corpus_tools.splitting import split_text


def build_corpus(
    sources: Sequence[str | Path],
    output_dir: Path,
    *,
    min_chars: int = 100,
    max_chars: int = 2048,
    validation_fraction: float = 0.05,
    fields: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Write the corpus folder and return its report."""
    files, _ = find_sources(sources)
    columns: dict[str, dict[str, list[Any]]] = {
        split: {name: [] for name in writing.DOCUMENT_SCHEMA.names} for split in ("train", "validation")
    }
    seen: set[bytes] = set()
    changes: Counter[str] = Counter()
    removed: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    rows_in = articles = 0
    for source in files:
        rows = read_rows(source.path, fields or {})
        rows_in += len(rows)
        for group in group_rows(rows):
            article = merge_rows(rows, group, source.name)
            text = "\n".join(line for line in clean_and_count(article.text, changes, removed).split("\n") if line)
            articles += 1
            chosen = hash_text(f"{article.title}\n{article.author}")[0] < 256 * validation_fraction
            out = columns["validation" if chosen else "train"]
            part = 0
            for piece in split_text(text, min_chars, max_chars):
                key = hash_text(piece)
                if len(piece) < min_chars:
                    dropped["too_short"] += 1
                elif key in seen:
                    dropped["duplicate"] += 1
                else:
                    seen.add(key)
                    values = (piece, article.title, article.author, source.name, part, len(piece))
                    for name, value in zip(out, (*values, taigi_score(census(piece))), strict=True):
                        out[name].append(value)
                    part += 1
    documents = sum(len(c["text"]) for c in columns.values())
    if not documents:
        raise InputError(f"nothing left of {rows_in} rows: {dict(dropped)}; lower --min_chars or check the input.")
    output_dir.mkdir(parents=True, exist_ok=True)
    for split, values_of in columns.items():
        writing.write_documents(output_dir / f"{split}-00000-of-00001.parquet", values_of)
    characters = sum(sum(c["characters"]) for c in columns.values())
    report = {
        "rows": rows_in,
        "articles": articles,
        "documents": documents,
        "characters": characters,
        "changes": dict(changes),
        "removed_characters": dict(removed),
        "dropped": dict(dropped),
    }
    writing.write_json(output_dir / "report.json", report)
    splits = "\n".join(f"  - split: {s}\n    path: {s}-*.parquet" for s in columns)
    (output_dir / "README.md").write_text(
        writing.CARD.format(
            splits=splits, documents=documents, characters=characters, version="0.1.0", min_chars=min_chars,
            max_chars=max_chars,
        ),
        encoding="utf-8",
    )
    return report
