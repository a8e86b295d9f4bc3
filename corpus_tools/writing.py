"""What a finished corpus folder holds, each file written aside and renamed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

DOCUMENT_SCHEMA = pa.schema(
    [
        ("text", pa.string()),
        ("title", pa.string()),
        ("author", pa.string()),
        ("source", pa.string()),
        ("part", pa.int32()),
        ("characters", pa.int32()),
        ("taigi_score", pa.float32()),
    ]
)


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """A temporary name in the same folder, renamed to `path` once the block succeeds."""
    aside = path.with_name(f".{path.name}.aside")
    try:
        yield aside
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def write_json(path: Path, value: dict[str, Any]) -> None:
    """`value` as readable JSON."""
    with written_aside(path) as aside:
        aside.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def write_documents(path: Path, columns: dict[str, list[Any]]) -> None:
    """Documents as Parquet; `columns` are those of `DOCUMENT_SCHEMA`."""
    with written_aside(path) as aside:
        pq.write_table(pa.table(columns, schema=DOCUMENT_SCHEMA), aside, compression="zstd", use_dictionary=False)


CARD = """---
language: nan
pretty_name: Taigi corpus
configs:
- config_name: default
  data_files:
{splits}
---
# Taigi corpus

{documents:,} documents of {min_chars}-{max_chars} characters, {characters:,} characters in all, cleaned by
`corpus_tools` {version}. `report.html` shows what was removed and why, `dropped.parquet` holds it, and
`manifest.json` the options and the hashes of every input and output file.
"""
