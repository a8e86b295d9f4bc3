"""Two sets of answers beside each other, and processes that give them, for `matmul_answers`."""

import math
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from taigi_lightning.evaluation.scoring import mcnemar, wilson_interval


def against(given: Sequence[int], others: Sequence[int], right: Sequence[int]) -> dict[str, Any]:
    """How many answers two sets share; the first's accuracy and its lead over the other, each with 95 % intervals.

    The lead's interval is of the questions on which just one of the two is correct: both answered the same ones.
    """
    count = len(right)
    correct = sum(a == r for a, r in zip(given, right, strict=True))
    ahead = sum(a == r != b for a, b, r in zip(given, others, right, strict=True))
    behind = sum(b == r != a for a, b, r in zip(given, others, right, strict=True))
    lead, width = (
        (ahead - behind) / count,
        1.96 * math.sqrt(ahead + behind - (ahead - behind) ** 2 / count) / count,
    )
    return {
        "questions": count, "same": sum(a == b for a, b in zip(given, others, strict=True)) / count,
        "accuracy": correct / count, "interval": [round(bound, 4) for bound in wilson_interval(correct, count)],
        "lead": lead, "lead_interval": [round(lead - width, 4), round(lead + width, 4)],
        "mcnemar": mcnemar(ahead, behind),
    }  # fmt: skip


def watch(running: dict[Path, "subprocess.Popen[bytes]"], patience: float) -> None:
    """Print the result lines of processes as they come, until all have ended or have had their time."""
    end, shown = time.monotonic() + patience, dict.fromkeys(running, 0)
    while True:
        ended = [process.poll() is not None for process in running.values()]
        for log in running:
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
            found = [line for line in lines if line.startswith("RESULT")]
            print(*found[shown[log] :], sep="\n", end="\n" if found[shown[log] :] else "", flush=True)
            shown[log] = len(found)
        if all(ended) or time.monotonic() > end:
            break
        time.sleep(0.5)
    for log, process in running.items():
        if process.poll() is None:
            process.kill()
        if process.wait():
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
            print(f"FAILED {log.name}, {process.returncode}: {' / '.join(lines[-4:])[-800:]}", flush=True)
