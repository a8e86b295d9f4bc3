"""The memory that one huge file takes: `python -m tests.benchmarks.corpus_memory jsonl 10 --folder DIR`.

Writes a JSONL (`jsonl`), one JSON list (`list`) or an object with the rows under a key (`object`) of some GB, cleans it
and prints seconds, the peak of the resident memory of all processes together, and whether every row and character that
was written is accounted for. What it wrote is removed at the end.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tests.benchmarks.corpus_speed import measure

_SENTENCES = [
    "阮兜佇台南的海邊仔，逐工攏會當看著日頭落海。",
    "隔壁的阿婆定定講起少年時陣的代誌,逐家攏愛聽!",
    "Góa bô beh khì, lí kám ū chia̍h-pn̄g?",
    "伊細漢的時陣佇庄跤讀冊，逐工愛行一點鐘久的路。",
    "彼年的風颱真大，厝瓦攏予風掃去矣，園仔嘛淹水。",
    "看https://example.tw/b_(c)?id=7後擺閣講...",
    "暗頭仔的市場真鬧熱，賣菜的、賣魚的攏咧喝。",
    "老師講：「讀冊毋是為著考試。」",
]
_AT_ONCE = 4000  # rows written together


class Written(NamedTuple):
    """What a file holds."""

    rows: int
    characters: int


def _rows(generator: random.Random) -> Iterator[dict[str, str | int]]:
    """Articles of 1 to 80 windows of about 170 characters, no two alike; now and then one is taken up again later."""
    article = 0
    while True:
        number = article if article < 50 or generator.random() > 0.01 else generator.randrange(article)
        for row in range(1, generator.randint(2, 81)):
            text = "".join(generator.choices(_SENTENCES, k=6)) + f"彼是第{article}改的第{row}項。"
            yield {
                "title": f"第{number}篇",
                "author": f"作者{number % 97}",
                "text": text,
                "paragraph_id": row,
            }
        article += 1


def write(path: Path, shape: str, size: int) -> Written:
    """A file of at least `size` bytes."""
    rows, count, characters = _rows(random.Random(9527)), 0, 0
    before, between, after = {
        "jsonl": ("", "\n", "\n"),
        "list": ("[\n", ",\n", "\n]\n"),
        "object": ('{"name": "corpus", "data": [\n', ",\n", "\n]}\n"),
    }[shape]
    with path.open("w", encoding="utf-8") as file:
        file.write(before)
        while file.tell() < size:
            some = [next(rows) for _ in range(_AT_ONCE)]
            file.write(
                (between if count else "") + between.join(json.dumps(row, ensure_ascii=False) for row in some)
            )
            count += len(some)
            characters += sum(len(str(row["text"])) for row in some)
        file.write(after)
    return Written(count, characters)


def unaccounted(report: dict[str, Any], written: Written) -> tuple[int, int]:
    """Rows and characters that were written and are neither kept nor dropped nor removed, by the report."""
    rows, characters = report["rows"], report["characters"]
    gone = [*characters["removed_by_rule"].values(), *characters["dropped"].values(), characters["edges"]]
    return (
        written.rows - rows["kept"] - sum(rows["dropped"].values()),
        written.characters + characters["line_breaks_added"] - sum(gone) - characters["kept"],
    )


def main() -> None:
    """Write, clean, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shape", choices=["jsonl", "list", "object"])
    parser.add_argument("gigabytes", type=float)
    parser.add_argument("--folder", type=Path, required=True, help="has room for twice the size")
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    folder = options.folder / f"huge-{options.shape}"
    folder.mkdir(parents=True)
    try:
        path = folder / ("huge.jsonl" if options.shape == "jsonl" else "huge.json")
        start = time.perf_counter()
        written = write(path, options.shape, int(options.gigabytes * 1e9))
        print(
            f"written: {path.stat().st_size:,} bytes, {written.rows:,} rows, {time.perf_counter() - start:.0f} s",
            flush=True,
        )
        command = [
            sys.executable,
            "-m",
            "corpus_tools",
            "clean",
            str(path),
            "--output_dir",
            str(folder / "out"),
        ]
        found = measure([*command, "--workers", str(options.workers)], Path(__file__).resolve().parents[2])
        report = json.loads((folder / "out" / "report.json").read_text(encoding="utf-8"))
        rows, characters = unaccounted(report, written)
        print(
            f"cleaned by {options.workers} process(es): {found.seconds:.0f} s, {found.cpu:.0f} s of CPU, peak "
            f"{found.peak_mb:.0f} MB; {report['documents']['total']:,} documents; rows not accounted for: {rows}, "
            f"characters: {characters}"
        )
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
