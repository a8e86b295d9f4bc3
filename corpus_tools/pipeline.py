"""From input files to the corpus folder: the one file that knows the order of the steps.

1. Shards (a file each; files that share a title by the same author together) are merged and cleaned.
2. From their hashes alone, duplicate articles and paragraphs are found and validation articles chosen.
3. Parts (runs of shards) are split into documents and written aside.
4. Everything is renamed into place, the manifest last.
No step depends on the number of workers, the kind of executor or the order in which files are listed.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Literal

import msgspec

from corpus_tools.cleaning.optional_rules import extra_rules
from corpus_tools.documents import Counts, OptionalRule, OwnRule, PartSummary
from corpus_tools.errors import InputError
from corpus_tools.files.contents import ReadLimits
from corpus_tools.files.hub import fetch, is_address
from corpus_tools.files.shard_file import read_counts
from corpus_tools.files.sources import Source, find_sources
from corpus_tools.filtering.decontamination import read_questions
from corpus_tools.filtering.deduplication import HASH_BYTES, NO_HASH, Sameness
from corpus_tools.filtering.segments import Limits
from corpus_tools.report.counts import corpus_report
from corpus_tools.report.html_page import render_page
from corpus_tools.steps.clean_shard import ShardOptions, ShardSummary, clean_shard, read_input
from corpus_tools.steps.executor import Progress, ahead, run_tasks, work_folder
from corpus_tools.steps.output_folder import check_output_folder
from corpus_tools.steps.publish import publish
from corpus_tools.steps.row_kinds import RowKind
from corpus_tools.steps.select import select
from corpus_tools.steps.write_part import write_part
from corpus_tools.steps.write_parts import grouped, write_all


def build_corpus(
    sources: str | Path | Sequence[str | Path],
    output_dir: str | Path,
    *,
    rows: RowKind | Literal["auto"] = "auto",
    min_chars: int = 100,
    max_chars: int = 2048,
    lengths: Literal["characters", "syllables"] = "characters",
    validation_fraction: float = 0.05,
    min_paragraph_chars: int = 30,
    min_taigi_score: float = 0.0,
    duplicates: Sameness = "exact",
    decontaminate: str | Path | None = None,
    ngram: int = 13,
    convert_simplified: bool = False,
    optional_rules: Sequence[OptionalRule] = (),
    own_rules: Sequence[OwnRule] = (),
    fields: Mapping[str, str] | None = None,
    output_format: str = "parquet",
    skip_bad_files: bool = False,
    max_expansion: int = 100,
    max_row_mchars: int = 50,
    executor: Executor | None = None,
    progress: Progress = lambda step, done, total: None,
) -> dict[str, Any]:
    """Write the corpus folder and return its report.

    The same files and options give the same bytes, whatever the executor. Lengths are in characters (code
    points).

    Args:
        sources: Folders and files to read, data sets as hf://OWNER/NAME:SPLIT, or one of them.
        output_dir: Where the corpus goes; what an earlier run wrote there is replaced at the very end.
        rows: What a row is: `window` of a running text, `paragraph` (or heading), `line` of verse; `auto` judges each
            file by where its rows end.
        min_chars: Shorter documents are dropped.
        max_chars: Longer articles are split.
        lengths: What those two count: characters, or Han characters and romanised syllables.
        validation_fraction: Share of the articles held out, whole; at least one of two or more.
        min_paragraph_chars: Shorter paragraphs may repeat: greetings, refrains.
        min_taigi_score: Documents that look less like Taigi are dropped.
        duplicates: `exact`, or `normalised`: texts that differ in width, punctuation and spaces alone are the same.
        decontaminate: CSV file of evaluation questions whose n-grams must not occur.
        ngram: Han characters, digits and romanised syllables of such an n-gram.
        convert_simplified: Convert articles that are themselves Simplified Chinese.
        optional_rules: Rules that run only when named, see `cleaning.optional_rules`.
        own_rules: Rules of the user's own, which run behind those.
        fields: The files' names for text, title, author, paragraph_id.
        output_format: `parquet` or `jsonl`.
        skip_bad_files: Go on without files, and rows of files, that cannot be used, and list them in the report.
        max_expansion: How many times larger a compressed file may become.
        max_row_mchars: The largest row, in millions of characters.
        executor: Runs the shards, elsewhere if it likes; None runs them here.
        progress: Called with a step's name, and how many of how many tasks are done.

    Returns:
        What report.json holds, see `report.corpus_report`: counts of rows, characters, articles and documents.

    Raises:
        InputError: Unusable input or options, another run in the same folder, or no document left.
    """
    output_dir, decontaminate = Path(output_dir), Path(decontaminate) if decontaminate else None
    if min_chars > max_chars:
        raise InputError(f"min_chars {min_chars} exceeds max_chars {max_chars}; give a smaller one.")
    if validation_fraction >= 1:
        raise InputError("validation_fraction 1 leaves nothing to train on; give a smaller one.")
    options: dict[str, Any] = {
        "rows": rows,
        "min_chars": min_chars,
        "max_chars": max_chars,
        "lengths": lengths,
        "validation_fraction": validation_fraction,
        "min_paragraph_chars": min_paragraph_chars,
        "min_taigi_score": min_taigi_score,
        "duplicates": duplicates,
        "decontaminate": decontaminate.name if decontaminate else None,
        "ngram": ngram,
        "convert_simplified": convert_simplified,
        "optional_rules": list(optional_rules),
        "own_rules": [asdict(rule) for rule in own_rules],
        "fields": dict(fields or {}),
        "output_format": output_format,
        "skip_bad_files": skip_bad_files,
        "max_expansion": max_expansion,
        "max_row_mchars": max_row_mchars,
    }
    given = [sources] if isinstance(sources, str | Path) else sources
    local = [source for source in given if not is_address(source)]
    remote = [source for source in given if is_address(source)]
    check_output_folder(output_dir, [Path(source) for source in local])
    files, passed_over = find_sources(local) if local or not remote else ([], [])
    extra_rules(optional_rules, own_rules)  # an unusable rule or file should say so before the work begins
    if decontaminate:
        read_questions(decontaminate, ngram)
    with work_folder(output_dir) as work:
        run = partial(run_tasks, executor, progress)
        for source in remote:
            fetched, revision = fetch(source, work / "fetched", fields or {})
            files += fetched
            options.setdefault("revisions", {})[str(source)] = revision
        reading = ahead(read_input, files) if executor is None else nullcontext(read_input)
        with reading as read:
            of_shards = _shard_options(options, own_rules, decontaminate)
            salt = _salt(options, decontaminate)
            clean = partial(clean_shard, work_dir=work, salt=salt, options=of_shards, read=read)
            shards = _clean_all(clean, files, run)
        selections, validation = select(shards, work, validation_fraction, min_chars)
        limits = Limits(min_chars, max_chars, min_taigi_score, lengths)
        finish = partial(write_part, limits=limits, jsonl=output_format == "jsonl", duplicates=duplicates)
        parts = write_all(finish, grouped(shards, selections), work, run)
        report = _report(options, shards, parts, work, passed_over, validation)
        _need_documents(report)
        names = [name for shard in shards for name in shard.sources]
        (work / "report.html").write_text(render_page(report, names), encoding="utf-8")
        publish(work, output_dir, parts, shards, report, options)
        shutil.rmtree(work)
        return report


def _shard_options(
    options: Mapping[str, Any], own_rules: Sequence[OwnRule], questions: Path | None
) -> ShardOptions:
    return ShardOptions(
        options["fields"],
        options["rows"],
        options["min_paragraph_chars"],
        questions.resolve() if questions else None,
        options["ngram"],
        options["duplicates"],
        options["convert_simplified"],
        tuple(options["optional_rules"]),
        tuple(own_rules),
        options["skip_bad_files"],
        ReadLimits(options["max_expansion"], options["max_row_mchars"]),
    )


def _report(
    options: Mapping[str, Any],
    shards: Sequence[ShardSummary],
    parts: Sequence[PartSummary],
    work: Path,
    passed_over: Sequence[str],
    validation: int,
) -> dict[str, Any]:
    """What report.json holds, see `corpus_report`."""
    skipped = {", ".join(s.sources): s.error for s in shards if s.error}
    for shard in shards:
        skipped |= shard.bad_rows
    shared = {s.sources[0]: len(s.sources) for s in shards if len(s.sources) > 1}
    kinds = {n: msgspec.to_builtins(k) for s in shards for n, k in zip(s.sources, s.kinds, strict=False)}
    counts = _counts(shards, work)
    return corpus_report(options, counts, parts, kinds, skipped, passed_over, validation, shared)


def _counts(shards: Sequence[ShardSummary], work: Path) -> Counts:
    counts = Counts()
    for shard in shards:
        if shard.stored:
            counts.add(read_counts(work / shard.stored, shard.ends))
    return counts


def _need_documents(report: Mapping[str, Any]) -> None:
    if not report["documents"]["total"]:
        reasons = {k: v for k, v in report["rows"]["dropped"].items() if v}
        left_out = list(report["skipped_files"].items())
        skipped = f", {len(left_out)} files or rows skipped ({': '.join(left_out[0])})" if left_out else ""
        raise InputError(
            f"no document left of {report['rows']['read']} rows (dropped: {reasons or 'none'}){skipped}; "
            "look at the input or lower --min_chars."
        )
    if not report["documents"].get("train"):
        raise InputError(
            f"every one of {report['documents']['total']} documents is held out and none is left to train on; "
            "lower --validation_fraction."
        )


def _salt(options: Mapping[str, Any], questions: Path | None) -> str:
    """Stands for all that a shard's result depends on besides its files: the options and this very code."""
    digest = hashlib.sha256(repr(sorted(options.items())).encode())
    for path in [*sorted(Path(__file__).parent.rglob("*.py")), *([questions] if questions else [])]:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _clean_all(clean: Callable[..., ShardSummary], files: Sequence[Source], run: Any) -> list[ShardSummary]:
    """Shards in order of their first file; files that share a title by one author are one shard."""
    alone: list[ShardSummary] = run("clean", [partial(clean, [file]) for file in files])
    group = list(range(len(files)))

    def root(i: int) -> int:
        while group[i] != i:
            i = group[i]
        return i

    first: dict[bytes, int] = {}
    for i, shard in enumerate(alone):
        for at in range(0, len(shard.titles), HASH_BYTES):
            title = shard.titles[at : at + HASH_BYTES]
            if title != NO_HASH:
                a, b = root(first.setdefault(title, i)), root(i)
                group[max(a, b)] = min(a, b)
    members: dict[int, list[int]] = {}
    for i in range(len(files)):
        members.setdefault(root(i), []).append(i)
    together = [m for m in members.values() if len(m) > 1]
    merged = run("merge", [partial(clean, [files[i] for i in m]) for m in together]) if together else []
    replaced = dict(zip((m[0] for m in together), merged, strict=True))
    return [replaced.get(i, alone[i]) for i in sorted(members)]
