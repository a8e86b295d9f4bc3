"""Prompts from a file, and what a model writes for them, in a JSON lines file that an interrupted run goes on with."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from taigi_lightning.atomic_write import write_text
from taigi_lightning.errors import InputError
from taigi_lightning.evaluation.generation import TextWriter, Written
from taigi_lightning.evaluation.text_scores import WRITTEN
from taigi_lightning.tasks.conversations import Conversation, open_conversation
from taigi_lightning.tasks.record_files import Record, read_records

logger = logging.getLogger(__name__)


def read_prompts(path: Path) -> list[tuple[Record, Conversation]]:
    """A file's records with their prompts, which stand under `prompt`, `messages`, `instruction` or `text`.

    Raises:
        InputError: the file cannot be read, a record has no prompt, or a column is called as what is to be added.
    """
    found = []
    for record in read_records(path):
        if WRITTEN in record.values:
            raise InputError(f"{path}, {record.place} has a column {WRITTEN} already. Rename it.")
        try:
            found.append((record, open_conversation(record)))
        except InputError as error:
            raise InputError(f"{path}, {record.place}: {error}") from error
    return found


def write_all(
    writer: TextWriter,
    prompts: Sequence[tuple[Record, Conversation]],
    output: Path,
    identity: dict[str, Any],
    batch_size: int,
    said: Callable[[int, int], None],
) -> None:
    """Write each record with what the model writes for it, in order; batches that an earlier run finished are kept.

    Args:
        writer: the model.
        prompts: from `read_prompts`.
        output: JSON lines, made when all is written; until then a journal lies beside it.
        identity: what decides the texts; a journal of other prompts, another model or other settings is put
            aside with a word.
        batch_size: prompts written at once.
        said: told after each batch how many are done, and of how many.

    Raises:
        InputError: a prompt is too long.
    """
    encoded = [writer.encode(conversation) for _, conversation in prompts]
    journal = output.with_name(output.name + ".journal")
    header = json.dumps(identity, ensure_ascii=False, sort_keys=True)
    lines = _resumed(journal, header, batch_size, len(prompts))
    write_text(journal, "".join(line + "\n" for line in [header, *lines]))
    with journal.open("a", encoding="utf-8", newline="\n") as file:
        for start in range(len(lines), len(prompts), batch_size):
            batch = range(start, min(start + batch_size, len(prompts)))
            written = writer.write([encoded[place] for place in batch], start)
            for place, text in zip(batch, written, strict=True):
                line = _line(prompts[place][0], text)
                file.write(line + "\n")
                lines.append(line)
            file.flush()
            os.fsync(file.fileno())
            said(len(lines), len(prompts))
    write_text(output, "".join(line + "\n" for line in lines))
    journal.unlink()


def _line(record: Record, written: Written) -> str:
    row = {**record.values, WRITTEN: written.text, "finished": written.finished}
    return json.dumps(row, ensure_ascii=False, default=str)


def _resumed(journal: Path, header: str, batch_size: int, total: int) -> list[str]:
    """The lines of whole batches that a run of the same identity left; a torn last line is passed over."""
    if not journal.is_file():
        return []
    first, *lines = journal.read_text(encoding="utf-8", errors="replace").split("\n")[:-1] or [""]
    if first != header:
        if lines:
            aside = journal.with_name(journal.name + ".old")
            logger.warning(
                "%s holds %d texts of a run with other prompts, another model or other settings: not used, kept as %s.",
                journal, len(lines), aside.name,
            )  # fmt: skip
            journal.replace(aside)
        return []
    whole = len(lines) if len(lines) >= total else len(lines) // batch_size * batch_size
    return lines[: min(whole, total)]
