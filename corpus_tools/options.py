"""What a corpus is made with: every option once, for the command line, the library and the manifest."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from jsonargparse.typing import ClosedUnitInterval, PositiveInt

from corpus_tools.documents import OptionalRule, OwnRule
from corpus_tools.errors import InputError


@dataclass(frozen=True)
class CorpusOptions:
    """The options of a corpus. Lengths are in characters (code points).

    Args:
        rows: What a row is: a window of running text, a paragraph or heading, a line of verse; auto judges each file.
        min_chars: Shorter documents are dropped.
        max_chars: Longer articles are split at sentence ends.
        lengths: What the two limits count: characters, or syllables, of which a Han character is one.
        validation_fraction: Share of the articles held out, whole.
        min_paragraph_chars: Shorter paragraphs may repeat; of longer ones the first stays.
        min_taigi_score: Documents that look less like Taigi than this are dropped.
        duplicates: What counts as the same text: exact, or normalised, which ignores widths, punctuation and spaces.
        decontaminate: CSV file of evaluation questions; text that shares an n-gram with them is dropped.
        ngram: Han characters, digits and romanised syllables in such an n-gram; punctuation does not count.
        convert_simplified: Convert articles that are themselves Simplified Chinese.
        optional_rules: Rules for what the files have: HTML, page marks, spaces between Han, contacts, mojibake.
        own_rules: Your own rules, best in a configuration file, with examples that they must and must not match.
        fields: The files' names for text, title, author and paragraph_id, where they differ; and for rows, the key
            under which a JSON object holds them.
        output_format: Format of the documents.
        skip_bad_files: Go on without damaged files, and damaged rows of good files, and list them in the report.
        max_expansion: How many times larger a .gz, .zst or Parquet file may become; 64 MB are always allowed.
        max_row_mchars: The largest row, in millions of characters; each takes 25 bytes of memory.

    Raises:
        InputError: The limits contradict each other, or nothing would be left to train on.
    """

    rows: Literal["auto", "window", "paragraph", "line"] = "auto"
    min_chars: PositiveInt = 100
    max_chars: PositiveInt = 2048
    lengths: Literal["characters", "syllables"] = "characters"
    validation_fraction: ClosedUnitInterval = 0.05
    min_paragraph_chars: PositiveInt = 30
    min_taigi_score: ClosedUnitInterval = 0.0
    duplicates: Literal["exact", "normalised"] = "exact"
    decontaminate: Path | None = None
    ngram: PositiveInt = 13
    convert_simplified: bool = False
    optional_rules: list[OptionalRule] | None = None
    own_rules: list[OwnRule] | None = None
    fields: dict[str, str] | None = None
    output_format: Literal["parquet", "jsonl"] = "parquet"
    skip_bad_files: bool = False
    max_expansion: PositiveInt = 100
    max_row_mchars: PositiveInt = 50

    def __post_init__(self) -> None:
        # A library's caller may give the path as a string; the class is frozen, hence the detour.
        questions = Path(self.decontaminate) if self.decontaminate else None
        object.__setattr__(self, "decontaminate", questions)
        if self.min_chars > self.max_chars:
            raise InputError(
                f"min_chars {self.min_chars} exceeds max_chars {self.max_chars}; give a smaller one."
            )
        if self.validation_fraction >= 1:
            raise InputError("validation_fraction 1 leaves nothing to train on; give a smaller one.")

    def recorded(self) -> dict[str, Any]:
        """The options as manifest.json and report.json hold them: of the questions' file, only its name."""
        return vars(self) | {
            "decontaminate": self.decontaminate.name if self.decontaminate else None,
            "optional_rules": list(self.optional_rules or ()),
            "own_rules": [asdict(rule) for rule in self.own_rules or ()],
            "fields": dict(self.fields or {}),
        }
