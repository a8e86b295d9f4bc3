"""`python -m corpus_tools clean | preview | sample`."""

from __future__ import annotations

import sys
from pathlib import Path

from jsonargparse import auto_cli

from corpus_tools.errors import InputError
from corpus_tools.sample import write_sample


def clean(
    source: Path,
    output_dir: Path = Path("data/cpt_corpus"),
    min_chars: int = 100,
    max_chars: int = 2048,
    validation_fraction: float = 0.05,
    fields: dict[str, str] | None = None,
) -> None:
    """Clean raw article files into a corpus folder for training.

    Args:
        source: Folder or file: JSON lists, JSONL, CSV, TXT, Parquet, also with .gz or .zst.
        output_dir: Folder for the corpus.
        min_chars: Shorter documents are dropped.
        max_chars: Longer articles are split at sentence ends.
        validation_fraction: Share of the articles held out, whole.
        fields: The file's names for text, title, author and paragraph_id, where they differ.
    """
    from corpus_tools.pipeline import build_corpus

    report = build_corpus(
        [source],
        output_dir,
        min_chars=min_chars,
        max_chars=max_chars,
        validation_fraction=validation_fraction,
        fields=fields,
    )
    print(f"{report['documents']:,} documents, {report['characters']:,} characters in {output_dir}")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; 0, or 1 for unusable data (usage errors leave with 2)."""
    try:
        auto_cli({"clean": clean, "sample": write_sample}, args=arguments, prog="corpus_tools", as_positional=True)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
