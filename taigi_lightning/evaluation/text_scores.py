"""Written answers × references → chrF, BLEU and exact match, by sacrebleu, with intervals by bootstrap."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from taigi_lightning.atomic_write import write_json
from taigi_lightning.errors import InputError
from taigi_lightning.tasks.conversation_forms import text_of
from taigi_lightning.tasks.conversations import read_conversations
from taigi_lightning.tasks.record_files import RECORD_FORMATS, Record, read_records
from taigi_lightning.terminal import console

WRITTEN = "generated"  # the column that `generate` adds
RESAMPLES = 1000
SEED = 9527


@dataclass(frozen=True)
class TextScore:
    """One measure of some written answers, 0 to 100.

    Args:
        name: chrF, BLEU or exact match.
        value: over all answers.
        interval: 95 % interval by bootstrap over the answers (Efron 1979; Koehn 2004).
        signature: what sacrebleu computed, so that others can compute the same; empty for exact match.
    """

    name: str
    value: float
    interval: tuple[float, float]
    signature: str


def holds_written(path: Path) -> bool:
    """Whether these are texts that `generate` wrote, not answers 1-4."""
    if not path.is_file() or not path.name.lower().endswith(RECORD_FORMATS):
        return False
    return any(WRITTEN in record.values for record in read_records(path)[:1])


def read_written(path: Path, references: Path) -> tuple[list[str], list[str]]:
    """The written texts and their references, row by row, or by `id` where both files have one.

    A reference stands under `reference`, or is the last answer of the row's conversation in any of the forms of
    instruction data.

    Raises:
        InputError: a file cannot be read, or the two do not hold the same rows.
    """
    written, asked = read_records(path), read_records(references)
    wanted = _references(references, asked)
    texts = [str(record.values.get(WRITTEN) or "") for record in written]
    ids, others = (_ids(records) for records in (written, asked))
    if ids is None or others is None:
        if len(texts) != len(wanted):
            raise InputError(
                f"{path} holds {len(texts)} texts and {references} {len(wanted)} references. Give one for each."
            )
        return texts, wanted
    if sorted(ids) != sorted(others):
        lacking = _some(key for key in others if key not in set(ids))
        surplus = _some(key for key in ids if key not in set(others))
        raise InputError(
            f"{path} and {references} do not hold the same IDs; missing {lacking}; without a reference {surplus}. "
            "Give one text for each reference."
        )
    by_id = dict(zip(others, wanted, strict=True))
    return texts, [by_id[key] for key in ids]


def _ids(records: Sequence[Record]) -> list[str] | None:
    found = [
        str(next((v for k, v in record.values.items() if k.casefold() == "id"), "")) for record in records
    ]
    return found if all(found) and len(set(found)) == len(found) else None


def _some(ids: Iterable[str]) -> str:
    """A few IDs in a sentence."""
    found = list(ids)
    return ", ".join(found[:5]) + (f" and {len(found) - 5} more" if len(found) > 5 else "") or "none"


def _references(path: Path, records: Sequence[Record]) -> list[str]:
    if any("reference" in record.values for record in records):
        if empty := next((record for record in records if record.values.get("reference") is None), None):
            raise InputError(f"{path}, {empty.place}: reference is empty. Write what was wanted there.")
        return [text_of(record.values["reference"], "reference") for record in records]
    try:
        return [str(conversation.messages[-1]["content"]) for conversation in read_conversations(path)]
    except InputError as error:
        raise InputError(
            f"What was wanted is not found in {path}: it stands in a column reference, or is the last answer of "
            f"instruction data. {error}"
        ) from error


def score_texts(texts: Sequence[str], references: Sequence[str]) -> list[TextScore]:
    """Compare written texts with what was wanted.

    Args:
        texts: what was written.
        references: one for each.

    Returns:
        chrF (Popović 2015), BLEU (Papineni 2002; Han characters count as words) and exact match, in per cent.
    """
    found = []
    for name, metric in _metrics().items():
        value, interval = _bootstrapped(metric, texts, references)
        found.append(TextScore(name, value, interval, str(metric.get_signature())))
    equal = np.array(
        [_folded(text) == _folded(wanted) for text, wanted in zip(texts, references, strict=True)]
    )
    picks = np.random.default_rng(SEED).choice(len(equal), size=(RESAMPLES, len(equal)))
    low, high = np.percentile(100 * equal[picks].mean(1), [2.5, 97.5]).tolist()
    return [*found, TextScore("exact match", 100 * float(equal.mean()), (low, high), "")]


def paired_p_values(
    texts: Sequence[str], others: Sequence[str], references: Sequence[str]
) -> dict[str, float]:
    """How often chance alone makes two sets of texts differ this much, by sacrebleu's paired bootstrap (Koehn 2004).

    1 where they do not differ at all, of which sacrebleu would say that it is no chance.
    """
    from sacrebleu.significance import PairedTest

    named: list[tuple[str, Sequence[str]]] = [("first", list(texts)), ("second", list(others))]
    test = PairedTest(named, _metrics(), [list(references)], test_type="bs", n_samples=RESAMPLES)
    scores: dict[str, Any] = dict(test()[1])
    found = {}
    for name in _metrics():
        # sacrebleu's names begin with the metric's and go on with its settings: chrF2.
        one, other = next(value for key, value in scores.items() if key.startswith(name))
        found[name] = 1.0 if one.score == other.score else float(other.p_value)
    return found


def score_written(texts: Path, references: Path, against: Path | None, json: Path | None) -> None:
    """Print, and perhaps write to a file, the measures of what `generate` wrote; see `scoring.score_command`."""
    written, wanted = read_written(texts, references)
    found = score_texts(written, wanted)
    screen = console()
    screen.print(text_table(found, len(written)))
    values: dict[str, object] = {**figures(found)}
    if against is not None:
        others, _ = read_written(against, references)
        p_values = paired_p_values(written, others, wanted)
        second = score_texts(others, wanted)
        screen.print(text_table(second, len(others)))
        said = ", ".join(f"{name} p = {value:.3g}" for name, value in p_values.items())
        screen.print(f"The second table is {against}'s; paired bootstrap: {said}.")
        values |= {"against": {**figures(second)}, "p_values": p_values}
    if json is not None:
        write_json(json, values)


def text_table(found: Sequence[TextScore], count: int) -> Table:
    """The measures with their intervals."""
    table = Table(title=f"{count} written answers")
    for column in ("measure", "value", "95 %"):
        table.add_column(column, no_wrap=True)
    table.add_column("signature", overflow="fold")
    for one in found:
        low, high = one.interval
        table.add_row(one.name, f"{one.value:.1f}", f"{low:.1f} to {high:.1f}", one.signature)
    return table


def figures(found: Sequence[TextScore]) -> Mapping[str, object]:
    """The measures as plain values by name."""
    return {one.name: asdict(one) for one in found}


def _metrics() -> dict[str, Any]:
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    return {"chrF": CHRF(), "BLEU": BLEU(tokenize="zh")}


def _bootstrapped(
    metric: Any, texts: Sequence[str], references: Sequence[str]
) -> tuple[float, tuple[float, float]]:
    """A metric's value and its 95 % percentile interval over sacrebleu's own resamples.

    Its own summary of them fails where some are NumPy's numbers and some Python's, as a score of 0 is.
    """
    scores: list[float] = []
    compute = metric._compute_score_from_stats

    def computed(stats: Any) -> Any:
        found = compute(stats)
        found.score = float(found.score)
        scores.append(found.score)
        return found

    metric._compute_score_from_stats = computed
    value = float(metric.corpus_score(list(texts), [list(references)], n_bootstrap=RESAMPLES).score)
    low, high = np.percentile(scores[-RESAMPLES:], [2.5, 97.5]).tolist()
    return value, (low, high)


def _folded(text: str) -> str:
    """A text for exact comparison: composed, without space around it or runs of it within."""
    return " ".join(unicodedata.normalize("NFC", text).split())
