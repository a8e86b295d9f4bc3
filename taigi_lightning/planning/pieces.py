"""How many tokens a Han character and a romanised syllable take, by the spans of text that tokens cover."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

Span = tuple[int, int]  # a token's first character and the one after its last
HAN = "\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
LETTERS = "A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u1e00-\u1eff\u0300-\u036f\u207f"
KINDS = re.compile(f"(?P<han>[{HAN}])|(?P<syllable>[{LETTERS}]+[1-9]?)")
SPACE, BYTE = "\u2581", re.compile("<0x[0-9A-F]{2}>")
SAMPLE = 100_000  # characters that are looked at


@dataclass(frozen=True)
class Pieces:
    """Han characters and romanised syllables (runs of letters) of some texts, and the tokens that cover them."""

    han: int = 0
    syllables: int = 0
    han_tokens: int = 0
    syllable_tokens: int = 0

    def __str__(self) -> str:
        parts = []
        if self.han:
            parts.append(f"{self.han_tokens / self.han:.2f} tokens a Han character")
        if self.syllables:
            parts.append(f"{self.syllable_tokens / self.syllables:.2f} tokens a romanised syllable")
        return ", ".join(parts) or "neither Han characters nor romanised syllables"


def count_pieces(texts: Iterable[str], spans: Iterable[Sequence[Span]]) -> Pieces:
    """Count; a token that covers several characters counts for the first that is Han or a letter.

    Args:
        texts: as they were encoded.
        spans: of each text, those of its tokens.

    >>> print(count_pieces(["我 kap lí"], [[(0, 1), (0, 1), (0, 1), (1, 5), (5, 7), (7, 8)]]))
    3.00 tokens a Han character, 1.50 tokens a romanised syllable
    """
    han = syllables = han_tokens = syllable_tokens = 0
    for text, of_tokens in zip(texts, spans, strict=True):
        kinds = [" "] * len(text)
        for match in KINDS.finditer(text):
            kinds[match.start() : match.end()] = ("h" if match["han"] else "s") * len(match[0])
            han, syllables = han + bool(match["han"]), syllables + bool(match["syllable"])
        for start, end in of_tokens:
            first = "".join(kinds[start:end]).strip()[:1]
            han_tokens, syllable_tokens = han_tokens + (first == "h"), syllable_tokens + (first == "s")
    return Pieces(han, syllables, han_tokens, syllable_tokens)


def sample_texts(corpus: str | Path) -> list[str]:
    """The first documents of a corpus's training split, 100,000 characters at most; empty where it is not there."""
    import pyarrow.parquet as pq

    found: list[str] = []
    for path in sorted(Path(corpus).glob("train-*.parquet")):
        with pq.ParquetFile(path) as file:
            if "text" not in file.schema_arrow.names:
                return []
            for batch in file.iter_batches(columns=["text"], batch_size=64):
                found += [str(text) for text in batch.column(0).to_pylist() if text]
                if sum(map(len, found)) >= SAMPLE:
                    return found
    return found


def spans_by_files(base: str | Path, texts: Sequence[str]) -> list[list[Span]] | None:
    """Spans of a base's tokens by its tokenizer's files alone, without transformers; None where these are not here."""
    folder = Path(base)
    if (folder / "tokenizer.json").is_file():
        from tokenizers import Tokenizer

        encoded = Tokenizer.from_file(str(folder / "tokenizer.json")).encode_batch(
            list(texts), add_special_tokens=False
        )
        return [list(found.offsets) for found in encoded]
    if (folder / "tokenizer.model").is_file():
        from sentencepiece import SentencePieceProcessor

        processor = SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
        spans = [spans_of(text, processor.encode(text, out_type=str)) for text in texts]
        return None if None in spans else [found for found in spans if found is not None]
    return None


def spans_of(text: str, pieces: Sequence[str]) -> list[Span] | None:
    """What of a text each of its SentencePiece pieces covers; None where the model writes the text otherwise.

    A piece is text with spaces as U+2581, the first of which may stand for no space, or one byte of a character.

    >>> spans_of("我 a", ["\u2581", "<0xE6>", "<0x88>", "<0x91>", "\u2581a"])
    [(0, 1), (0, 1), (0, 1), (0, 1), (1, 3)]
    """
    found, at, read = [], 0, 0
    for number, piece in enumerate(pieces):
        if BYTE.fullmatch(piece) and at < len(text):
            found.append((at, at + 1))
            read += 1
            if read == len(text[at].encode()):
                at, read = at + 1, 0
            continue
        length = len(piece) - (number == 0 and piece.startswith(SPACE) and not text.startswith(" "))
        found.append((at, max(at + length, 1)))  # one that stands for no space is the first character's
        at += length
    return found if at == len(text) else None


def with_words(text: str, spans: Sequence[Span], words: Sequence[str]) -> list[Span]:
    """The spans where each of some words is one token: what adding them to the tokenizer would give.

    >>> with_words("tsai tsa", [(0, 2), (2, 4), (4, 5), (5, 7), (7, 8)], ["tsa"])
    [(0, 2), (2, 4), (4, 5), (5, 8)]
    """
    ordered = sorted(words, key=len, reverse=True)
    bounded = [
        re.escape(word) if re.search(f"[{HAN}]", word) else rf"(?<!\w){re.escape(word)}(?!\w)"
        for word in ordered
    ]
    found = [match.span() for match in re.finditer("|".join(bounded), text)] if bounded else []
    kept = [span for span in spans if not any(span[0] < end and span[1] > start for start, end in found)]
    return sorted([*kept, *found])
