"""The table of the input files: what each was taken for, how it is written, and how much of it was kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

HEADER = (
    "file", "rows are", "rows", "articles", "documents", "characters", "kept",
    "Han", "romanised", "tone digits", "mixed",
)  # fmt: skip
SHOWN = 100  # files in the page itself; the others are in the CSV file


def source_rows(sources: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """The files as rows of text under HEADER, the one of which least was kept first.

    >>> read = {"source": "a.json", "rows_are": {"kind": "line", "followed": 9, "open": 9, "length": 7}}
    >>> counts = {"rows": 9, "articles": 1, "documents": 1, "characters": 80, "kept": 60}
    >>> source_rows([read | counts | {"han": 60, "romanised": 0, "tone_digits": 0, "mixed": 0}])[0][:7]
    ['a.json', 'lines: 9 of 9 end open, 9 in 10 within 7', '9', '1', '1', '80', '75.0%']
    """
    ordered = sorted(sources, key=lambda source: (_share(source), source["source"]))
    return [
        [
            source["source"],
            _rows_are(source["rows_are"]),
            *(f"{source[name]:,}" for name in ("rows", "articles", "documents", "characters")),
            f"{_share(source):.1%}",
            *(
                f"{source[script] / max(1, source['kept']):.0%}"
                for script in ("han", "romanised", "tone_digits", "mixed")
            ),
        ]
        for source in ordered
    ]


def _share(source: Mapping[str, Any]) -> float:
    kept, read = source["kept"], source["characters"]
    return float(kept / max(1, read))


def _rows_are(evidence: Mapping[str, Any]) -> str:
    """What rows were taken for, and how they end: the length is in Han characters or syllables."""
    if not evidence:
        return ""
    followed, left_open = evidence.get("followed", 0), evidence.get("open", 0)
    looked_at = (
        f": {left_open} of {followed} end open, 9 in 10 within {evidence['length']}" if left_open else ""
    )
    return f"{evidence['kind']}s{looked_at}"
