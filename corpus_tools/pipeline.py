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
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from corpus_tools.cleaning.optional_rules import extra_rules
from corpus_tools.documents import Counts, PartSummary
from corpus_tools.errors import InputError
from corpus_tools.files.atomic import write_text
from corpus_tools.files.contents import ReadLimits
from corpus_tools.files.hub import fetch, is_address
from corpus_tools.files.shard_file import read_counts
from corpus_tools.files.sources import Source, find_sources
from corpus_tools.files.streams import is_large
from corpus_tools.filtering.decontamination import read_questions
from corpus_tools.filtering.segments import Limits
from corpus_tools.options import CorpusOptions
from corpus_tools.report.counts import corpus_report, lack_of_titles
from corpus_tools.report.html_page import render_page
from corpus_tools.signals import held_back
from corpus_tools.steps.clean_all import Cleaned, clean_all
from corpus_tools.steps.clean_articles import SAMPLES
from corpus_tools.steps.clean_shard import ShardOptions, ShardSummary, clean_shard, read_input
from corpus_tools.steps.executor import Progress, ahead, run_tasks, work_folder
from corpus_tools.steps.output_folder import check_output_folder
from corpus_tools.steps.publish import publish
from corpus_tools.steps.select import select
from corpus_tools.steps.write_part import write_part
from corpus_tools.steps.write_parts import grouped, write_all
from corpus_tools.windows import patiently


def build_corpus(
    sources: str | Path | Sequence[str | Path],
    output_dir: str | Path,
    *,
    executor: Executor | None = None,
    progress: Progress = lambda step, done, total: None,
    **options: Any,
) -> dict[str, Any]:
    """Write the corpus folder and return its report.

    The same files and options give the same bytes, whatever the executor.

    Args:
        sources: Folders and files to read, data sets as hf://OWNER/NAME:SPLIT, or one of them.
        output_dir: Where the corpus goes; what an earlier run wrote there is replaced at the very end.
        executor: Runs the shards, elsewhere if it likes; None runs them here.
        progress: Called with a step's name, and how many of how many tasks are done.
        options: Any of `CorpusOptions`, which says what each does.

    Returns:
        What report.json holds, see `report.corpus_report`: counts of rows, characters, articles and documents.

    Raises:
        InputError: Unusable input or options, another run in the same folder, or no document left.
        TypeError: There is no such option.
    """
    output_dir, chosen = Path(output_dir), CorpusOptions(**options)
    given = [sources] if isinstance(sources, str | Path) else sources
    local = [source for source in given if not is_address(source)]
    remote = [source for source in given if is_address(source)]
    check_output_folder(output_dir, [Path(source) for source in local])
    files, passed_over = find_sources(local) if local or not remote else ([], [])
    _check_files_of(chosen)
    with work_folder(output_dir) as work:
        fetched, revisions = _fetched(remote, work / "fetched", chosen)
        recorded = chosen.recorded() | ({"revisions": revisions} if revisions else {})
        run = partial(run_tasks, executor, progress)
        files += fetched
        whole = [file for file in files if not is_large(file)]
        with ahead(read_input, whole) if executor is None else nullcontext(read_input) as read:
            salt, of_shards = _salt(recorded, chosen.decontaminate), _shard_options(chosen)
            clean = partial(clean_shard, work_dir=work, salt=salt, options=of_shards, read=read)
            cleaned = clean_all(clean, files, work, of_shards, run)
        parts, validation = _write_parts(cleaned.shards, work, chosen, run)
        report = _report(recorded, cleaned, parts, work, passed_over, validation)
        _need_documents(report)
        names = [file.name for file in cleaned.files]
        write_text(work / "report.html", render_page(report, names))
        with held_back("the corpus is complete"):
            publish(work, output_dir, parts, cleaned.files, report, recorded)
            patiently(lambda: shutil.rmtree(work))
        return report


def _check_files_of(options: CorpusOptions) -> None:
    """An unusable rule or file of questions says so before the work begins."""
    extra_rules(options.optional_rules or (), options.own_rules or ())
    if options.decontaminate:
        read_questions(options.decontaminate, options.ngram)


def _fetched(
    addresses: Sequence[str | Path], folder: Path, options: CorpusOptions
) -> tuple[list[Source], dict[str, str]]:
    """The files of the Hub's data sets, and which revision of each they are."""
    files: list[Source] = []
    revisions: dict[str, str] = {}
    for address in addresses:
        fetched, revisions[str(address)] = fetch(address, folder, options.fields or {})
        files += fetched
    return files, revisions


def _shard_options(options: CorpusOptions) -> ShardOptions:
    return ShardOptions(
        fields=options.fields or {},
        rows=options.rows,
        min_paragraph_chars=options.min_paragraph_chars,
        questions=options.decontaminate.resolve() if options.decontaminate else None,
        ngram=options.ngram,
        duplicates=options.duplicates,
        convert_simplified=options.convert_simplified,
        optional_rules=tuple(options.optional_rules or ()),
        own_rules=tuple(options.own_rules or ()),
        skip_bad_files=options.skip_bad_files,
        limits=ReadLimits(options.max_expansion, options.max_row_mchars),
    )


def _write_parts(
    shards: Sequence[ShardSummary], work: Path, options: CorpusOptions, run: Any
) -> tuple[list[PartSummary], int]:
    """Choose what stays and write it aside; also how many articles are held out."""
    selections, validation = select(shards, work, options.validation_fraction, options.min_chars)
    limits = Limits(options.min_chars, options.max_chars, options.min_taigi_score, options.lengths)
    jsonl = options.output_format == "jsonl"
    finish = partial(write_part, limits=limits, jsonl=jsonl, duplicates=options.duplicates)
    return write_all(finish, grouped(shards, selections), work, run), validation


def _report(
    options: Mapping[str, Any],
    cleaned: Cleaned,
    parts: Sequence[PartSummary],
    work: Path,
    passed_over: Sequence[str],
    validation: int,
) -> dict[str, Any]:
    """What report.json holds, see `corpus_report`."""
    shards = cleaned.shards
    kinds = {n: msgspec.to_builtins(k) for s in shards for n, k in zip(s.sources, s.kinds, strict=False)}
    counts = _counts(shards, work)
    sharing = cleaned.sharing
    return corpus_report(options, counts, parts, kinds, cleaned.left_out, passed_over, validation, sharing)


def _counts(shards: Sequence[ShardSummary], work: Path) -> Counts:
    """The counts of all shards; those that one file was cut into give as many samples as a file does."""
    counts = Counts()
    before: list[str] = []
    samples: Counter[str] = Counter()  # of each rule, from the file
    for shard in shards:
        if (file := shard.file(work)) is None:
            continue
        if shard.sources != before:
            before, samples = shard.sources, Counter()
        found = read_counts(file)
        for rule, of_rule in found.samples.items():
            del of_rule[max(0, SAMPLES - samples[rule]) :]
            samples[rule] += len(of_rule)
        counts.add(found)
    return counts


def _need_documents(report: Mapping[str, Any]) -> None:
    if not report["documents"]["total"]:
        reasons = {k: v for k, v in report["rows"]["dropped"].items() if v}
        left_out = list(report["skipped_files"].items())
        skipped = f", {len(left_out)} files or rows skipped ({': '.join(left_out[0])})" if left_out else ""
        raise InputError(
            f"no document left of {report['rows']['read']} rows (dropped: {reasons or 'none'}){skipped}; "
            f"look at the input or lower --min_chars.{lack_of_titles(report)}"
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
