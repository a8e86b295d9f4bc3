"""What in a finished run's report looks as if the input was taken for something else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from corpus_tools.report.counts import lack_of_titles

NEARLY_NOTHING = 0.2  # of the characters
_WORTH_A_WORD = 1_000  # characters of a source
_MANY_FILES = 5
_FEW_ROWS, _MOSTLY = 3, 0.8  # rows that overlap the next one, and their share


def warnings_of(report: Mapping[str, Any]) -> Iterator[str]:
    """One sentence for each thing to look at.

    >>> list(warnings_of({"characters": {"read": 9, "kept": 9}, "sources": [], "files_sharing_titles": {"a.json": 7}}))
    ['7 files, a.json the first, share titles by the same author and became one article each; look at their titles.']
    """
    characters = report["characters"]
    if characters["kept"] < NEARLY_NOTHING * characters["read"]:
        reasons = {**characters["dropped"], **characters["removed_by_rule"]}
        most = max(reasons, key=lambda reason: reasons[reason], default="edges").replace("_", " ")
        yield (
            f"only {characters['kept'] / characters['read']:.1%} of the characters were kept; most of the others went "
            f"as {most}. See report.html, and whether text, title and paragraph_id are what they are taken for."
            f"{lack_of_titles(report)}"
        )
    else:
        poor = [
            source
            for source in report["sources"]
            if source["characters"] >= _WORTH_A_WORD
            and source["kept"] < NEARLY_NOTHING * source["characters"]
        ]
        if poor:
            names = ", ".join(source["source"] for source in poor[:3])
            yield (
                f"of {len(poor)} of {len(report['sources'])} files nearly nothing was kept ({names}"
                f"{', ...' if poor[3:] else ''}); see them in report.html."
            )
    yield from _of_input(report)
    if empty := [source["source"] for source in report["sources"] if source.get("rows") == 0]:
        yield f"{len(empty)} files have no rows ({', '.join(empty[:3])}{', ...' if empty[3:] else ''})."
    yield from _of_texts(report)
    for first, count in report["files_sharing_titles"].items():
        if count >= _MANY_FILES:
            yield (
                f"{count} files, {first} the first, share titles by the same author and became one article each; "
                "look at their titles."
            )


def _of_input(report: Mapping[str, Any]) -> Iterator[str]:
    """What was not found: columns that options name, a format for files that lie there."""
    fields = report["options"].get("fields", {}) if "options" in report else {}
    for field, count in report.get("articles_with", {}).items():
        if field in fields and not count:
            yield f"no row has {fields[field]!r}, which --fields.{field} names; see how the files write it."
    if others := report.get("passed_over_files", ()):
        endings = ", ".join(sorted({PurePosixPath(name).suffix or "none" for name in others})[:5])
        one = len(others) == 1
        yield (
            f"{len(others)} file{' was' if one else 's were'} not read, for {'its' if one else 'their'} ending"
            f"{'' if one else 's'} ({endings}) stand{'s' if one else ''} for no format that is known "
            f"({', '.join(others[:3])}{', ...' if others[3:] else ''}); convert what holds texts."
        )


def _of_texts(report: Mapping[str, Any]) -> Iterator[str]:
    """What in the texts themselves is not as it should be: said twice, or read in a wrong encoding."""
    overlapping = [source for source in report["sources"] if _overlaps(source.get("rows_are", {}))]
    if overlapping:
        seen = overlapping[0]["rows_are"]
        yield (
            f"in {len(overlapping)} files ({overlapping[0]['source']} the first) rows begin with the end of the row "
            f"before them ({seen['overlapping']} of {seen['followed']} looked at), so the joined text says it twice; "
            "part it into rows that do not overlap."
        )
    misread = [found for found in report.get("garbled_articles", ()) if found.get("rule")]
    if misread:
        yield (
            f"{len(misread)} articles ({misread[0]['title'] or misread[0]['source']} the first) seem to be UTF-8 "
            "that was read as another encoding; get the text anew, or repair it with --optional_rules='[mojibake]'."
        )


def _overlaps(evidence: Mapping[str, Any]) -> bool:
    """Whether a file's rows are windows that overlap, rather than some that repeat each other."""
    found = evidence.get("overlapping", 0)
    return bool(found >= _FEW_ROWS and found >= _MOSTLY * evidence["followed"])
