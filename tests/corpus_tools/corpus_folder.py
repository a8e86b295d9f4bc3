"""Raw files written for a test, and what stands in the corpus folder that is made of them."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

LONG = "阮兜佇台南的海邊仔，逐工攏會當看著日頭落海。隔壁的阿婆定定講起少年時陣的代誌，逐家聽甲真歡喜。"


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if not p.name.startswith(".")}


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    return path


def rows_of(title: str, *texts: str, author: str = "林") -> list[dict[str, Any]]:
    return [
        {"title": title, "author": author, "text": text, "paragraph_id": i} for i, text in enumerate(texts, 1)
    ]


def documents(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for path in sorted(folder.glob("*-of-*.parquet")):
        found += pq.read_table(path).to_pylist()
    return found
