"""Large files give, part by part, byte for byte the corpus that they give when they are read whole."""

import gzip
import json
import multiprocessing
import random
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from corpus_tools.errors import InputError
from corpus_tools.pipeline import build_corpus
from tests.corpus_tools.corpus_folder import LONG, contents, documents

Rows = list[dict[str, Any]]


def stream(patch: pytest.MonkeyPatch, unit_bytes: int) -> None:
    """Let every file be a large one, of which so many bytes are cleaned at once."""
    patch.setattr("corpus_tools.files.streams.LARGE", -1)
    for module in ("cut_file", "gather"):
        patch.setattr(f"corpus_tools.steps.{module}.UNIT_BYTES", unit_bytes)


def some_rows(seed: int, titles: int, order: str) -> Rows:
    """Articles of a few windows each; their rows one after the other, by number, or in any order."""
    draw = random.Random(seed)
    rows: Rows = []
    for k in range(titles):
        for i in range(1, draw.randint(2, 6)):
            number = draw.choice([i, i, i, None])
            text = LONG[draw.randint(0, 9) : -draw.randint(1, 9)] + draw.choice(["", "。", f"{k}.{i}。"])
            author = draw.choice(["林", "林", None]) if k % 4 else draw.choice(["林", "陳", None])
            rows.append({"title": f"題{k}", "author": author, "text": text, "paragraph_id": number})
        if draw.random() < 0.3:
            rows.append({"title": None, "author": None, "text": f"{LONG}無題{k}。", "paragraph_id": None})
    if order == "by number":
        rows.sort(key=lambda row: row["paragraph_id"] or 3)
    elif order == "any":
        draw.shuffle(rows)
    return rows


def write(path: Path, rows: Rows) -> None:
    """A file of the format that its name tells."""
    as_lines = "".join(json.dumps(row, ensure_ascii=row["title"] == "題1") + "\n" for row in rows).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=7)
    elif path.suffix in (".csv", ".tsv"):
        quoted = [['"' + str(v or "").replace('"', '""') + '"' for v in row.values()] for row in rows]
        lines = [list(rows[0]), *quoted]
        path.write_text("\r\n".join(("\t" if path.suffix == ".tsv" else ",").join(line) for line in lines))
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress(as_lines))
    elif path.suffix == ".zst":
        half = as_lines.index(b"\n", len(as_lines) // 2) + 1
        path.write_bytes(zstandard.compress(as_lines[:half]) + zstandard.compress(as_lines[half:]))
    elif path.name == "object.json":
        path.write_text(json.dumps({"version": [1, 2], "rows": rows, "more": {"a": []}}, indent=1))
    elif path.name == "members.json":
        path.write_text(json.dumps({f"{i}": row for i, row in enumerate(rows)}, ensure_ascii=False))
    elif path.suffix == ".json":
        path.write_bytes(b"\xef\xbb\xbf" + json.dumps(rows, ensure_ascii=False, indent=2).encode())
    else:
        path.write_bytes(as_lines.replace(b"\n", b"\r\n\n"))


NAMES = (
    "a.jsonl", "a.json", "object.json", "members.json", "a.csv", "a.tsv", "a.parquet", "a.jsonl.gz", "a.jsonl.zst",
)  # fmt: skip


def in_parts(source: Path, output_dir: Path, **options: Any) -> tuple[dict[str, Any], set[str]]:
    """The report of a run, and the steps that it had."""
    steps: set[str] = set()
    report = build_corpus(source, output_dir, progress=lambda step, *_: steps.add(step), **options)
    return report, steps


@pytest.mark.parametrize("name", NAMES)
def test_every_format_gives_the_same_bytes_in_parts(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "in" / name, some_rows(1, 30, "one after the other"))
    build_corpus(tmp_path / "in", tmp_path / "whole", min_chars=20)
    stream(monkeypatch, 1000)
    _, steps = in_parts(tmp_path / "in", tmp_path / "parts", min_chars=20)
    assert "read" in steps
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


@pytest.mark.parametrize("order", ["one after the other", "by number", "any"])
@pytest.mark.parametrize("unit_bytes", [1, 300, 5000])
def test_rows_of_a_title_are_found_wherever_they_lie(
    order: str, unit_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "in" / "a.jsonl", some_rows(2, 25, order))
    build_corpus(tmp_path / "in", tmp_path / "whole", min_chars=20)
    stream(monkeypatch, unit_bytes)
    _, steps = in_parts(tmp_path / "in", tmp_path / "parts", min_chars=20)
    assert "gather" in steps
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


def test_titles_that_go_on_in_another_file_are_found_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = some_rows(3, 30, "any")
    for name, of_file in {
        "a.txt": [],
        "a.jsonl": rows[:50],
        "b.json": rows[50:60],
        "c.csv": rows[60:],
    }.items():
        write(tmp_path / "in" / name, of_file)
    (tmp_path / "in" / "a.txt").write_text(f"{LONG}\n{LONG[:20]}。\n", "utf-8")
    whole = build_corpus(tmp_path / "in", tmp_path / "whole", min_chars=20)
    stream(monkeypatch, 700)
    parts, steps = in_parts(tmp_path / "in", tmp_path / "parts", min_chars=20)
    assert "gather" in steps
    assert documents(tmp_path / "parts") == documents(tmp_path / "whole")
    dropped = [pq.read_table(tmp_path / name / "dropped.parquet").to_pylist() for name in ("whole", "parts")]
    assert dropped[0] == dropped[1]
    for report in (whole, parts):  # samples are those of a shard
        report["rules"] = {name: rule | {"samples": []} for name, rule in report["rules"].items()}
    assert parts == whole


def test_workers_change_nothing_and_a_killed_run_is_taken_up_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "in" / "a.jsonl", some_rows(4, 30, "by number"))
    stream(monkeypatch, 1000)
    build_corpus(tmp_path / "in", tmp_path / "one", min_chars=20)
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as processes:
        build_corpus(tmp_path / "in", tmp_path / "two", executor=processes, min_chars=20)
    assert contents(tmp_path / "two") == contents(tmp_path / "one")

    def die(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("corpus_tools.pipeline.select", die)
        build_corpus(tmp_path / "in", tmp_path / "again", min_chars=20)
    with monkeypatch.context() as patch:
        patch.setattr("corpus_tools.steps.clean_shard._clean_rows", die)  # nothing is cleaned once more
        build_corpus(tmp_path / "in", tmp_path / "again", min_chars=20)
    assert contents(tmp_path / "again") == contents(tmp_path / "one")


GOOD = b'{"title": "a", "text": "' + LONG.encode() + b'"}\n'
WRONG = {
    "damaged.jsonl": (GOOD * 3 + b'{"title": "a", "text": "x\n' + GOOD, "row 4"),
    "no-text.jsonl": (GOOD * 3 + b'{"title": "a"}\n' + GOOD, "row 4: no 'text' among title"),
    "latin-1.jsonl": (GOOD * 3 + b'{"text": "caf\xe9"}\n', "line 4: byte 0xe9 is not UTF-8"),
    "utf-16.json": ("[]".encode("utf-16-le"), "the file is UTF-16"),
    "cut-off.json": (b"[" + GOOD + b"," + GOOD[:-9], "line 2: Unterminated string"),
    "cut-off.jsonl.gz": (gzip.compress(GOOD * 99)[:-30], "damaged or cut off"),
    "cut-off.jsonl.zst": (zstandard.compress(GOOD * 99)[:-9], "damaged or cut off"),
    "bomb.jsonl.gz": (gzip.compress(b" " * (80 << 20)), "more than 64 MB when decompressed"),
    "two-lists.json": (b'{"a": [{"text": "x"}], "b": [{"text": "y"}]}', "name the key that holds the rows"),
    "columns.csv": (b"title,text\na,b\na,b,c\n", "row 2: 3 values for 2 columns"),
    "column.csv": (b"title,body\na,b\n", "no column 'text' among title, body"),
    "quotes.csv": (b'title,text\na,"b\n', "row 1: unexpected end of data; check its quotes"),
    "no.parquet": (b"PAR1 no", "not a readable Parquet file"),
    "long.jsonl": (
        b'{"text": "' + b"a" * 1_100_000 + b'"}\n' + GOOD,
        "the text has 1,100,000 characters; part it",
    ),
    "endless.jsonl": (
        b'{"text": "' + b"a" * 8_000_000 + b'"}\n' + GOOD,
        "a row is longer than --max_row_mchars",
    ),
    "endless.json": (b'[{"text": "' + b"a" * 8_000_000 + b'"}]', "part it into rows"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_with_a_large_file_is_one_sentence(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, message = WRONG[name]
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes(content)
    (tmp_path / "in" / "good.jsonl").write_bytes(GOOD)
    stream(monkeypatch, 1000)
    options: dict[str, Any] = {"max_row_mchars": 1, "min_chars": 10, "validation_fraction": 0}
    with pytest.raises(InputError, match=message):
        build_corpus(tmp_path / "in", tmp_path / "out", **options)
    report = build_corpus(tmp_path / "in", tmp_path / "out", skip_bad_files=True, **options)
    (left_out,) = report["skipped_files"].items()
    assert left_out[0].startswith(name) and report["documents"]["total"] == 1


MEMORY = """
import sys
from pathlib import Path
from corpus_tools.__main__ import main
code = main(["clean", sys.argv[1], "--output_dir", sys.argv[2], "--workers", "1"])
print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])  # ru_maxrss is the parent's too
sys.exit(code)
"""


@pytest.mark.posix("/proc")
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_memory_does_not_grow_with_a_file(tmp_path: Path) -> None:
    """50 MB take at most 50 MB more than 18 MB, both streamed. Read whole, they would take 120 MB more."""
    peaks = []
    for megabytes in (18, 50):
        path = tmp_path / f"{megabytes}.jsonl"
        with path.open("w", encoding="utf-8") as file:
            for k in range(megabytes * 1_000_000 // (300 * 10)):
                for i in range(10):
                    text = LONG * 2 if k % 8 else f"{LONG}{k}{LONG[:20]}{i}。"
                    file.write(json.dumps({"title": f"{k}", "text": text}, ensure_ascii=False) + "\n")
        command = [sys.executable, "-c", MEMORY, str(path), str(tmp_path / f"out-{megabytes}")]
        run = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks.append(int(run.stdout.split()[-1]) / 1024)
        path.unlink()
    assert peaks[1] - peaks[0] < 50, peaks
