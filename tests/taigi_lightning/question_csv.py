"""CSV files of four-choice questions, in the columns that people's files have."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

OPTIONS = ("選項1", "選項2", "選項3", "選項4")
WITH_ANSWERS = ("文章", "問題", *OPTIONS, "正確答案")
TO_ANSWER = ("ID", "前文", "題幹", *OPTIONS)


def write_csv(
    path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]], encoding: str = "utf-8"
) -> Path:
    """Write one and return where it is."""
    with path.open("w", encoding=encoding, newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)
    return path
