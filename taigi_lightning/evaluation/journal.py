"""What an interrupted prediction leaves behind, so that the next run can go on from it.

One file for each device, `OUTPUT.journal-0` and so on: a first line that identifies the run, then one
prediction a line.
"""

from __future__ import annotations

import json
import logging
from functools import partial
from pathlib import Path

from taigi_lightning.atomic_write import write_text
from taigi_lightning.evaluation.predictions import Prediction
from taigi_lightning.windows import patiently

logger = logging.getLogger(__name__)

Key = tuple[int, int]  # (row, rotation)
Journal = dict[Key, Prediction]


def resume_journals(output: Path, header: dict[str, str]) -> Journal:
    """Gather what earlier runs of the same prediction left, into the journal of device 0.

    Args:
        output: the predictions file the journals belong to.
        header: what identifies the model and the questions; a journal of answers with another one is put
            aside, and one without answers removed.
    """
    found: Journal = {}
    for journal in journals(output):
        theirs, predictions = read_journal(journal)
        if theirs == header:
            found |= predictions
            continue
        if not predictions:
            patiently(journal.unlink)
            continue
        keys = dict.fromkeys([*header, *theirs])
        differing = ", ".join(key for key in keys if theirs.get(key) != header.get(key))
        logger.warning(
            "%s holds %d answers of a run with another %s: not used, kept as %s.old.",
            journal, len(predictions), differing, journal.name,
        )  # fmt: skip
        patiently(partial(journal.replace, journal.with_name(journal.name + ".old")))
    if journals(output):  # also one without an answer yet: its last line may be torn
        first, lines = journal_path(output, 0), [header, *found.values()]
        write_text(first, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
        for journal in journals(output):
            if journal != first:
                patiently(journal.unlink)
    return found


def read_journal(path: Path) -> tuple[dict[str, str], Journal]:
    """A journal's header and predictions; a last line cut off in the middle is passed over."""
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
    if not lines:
        return {}, {}
    predictions = [Prediction(*json.loads(line)) for line in lines[1:]]
    return json.loads(lines[0]), {(p.row, p.rotation): p for p in predictions}


def journals(output: Path) -> list[Path]:
    pattern = output.name.replace("[", "[[]") + ".journal-[0-9]*"
    return sorted(path for path in output.parent.glob(pattern) if path.name.rpartition("-")[2].isdigit())


def journal_path(output: Path, rank: int) -> Path:
    return output.with_name(f"{output.name}.journal-{rank}")
