"""Tokens whose embeddings train: words that a base lacks, added to its tokenizer, or tokens that it has."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsonargparse.typing import PositiveFloat
from transformers import PreTrainedTokenizerBase

from taigi_lightning.atomic_write import write_json
from taigi_lightning.errors import InputError
from taigi_lightning.model.base_model import brings_tokenizer, load_tokenizer, read_tokenizer

NOWHERE = "\N{IDEOGRAPHIC FULL STOP}"  # a beginning of text after which no tokenizer puts a space of its own
# Written without spaces between words: a token of these is found inside a run of letters too.
UNSPACED = re.compile(
    "[\u3040-\u30ff\u3100-\u312f\u31a0-\u31bf\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)


@dataclass
class NewTokens:
    """Words to be one token each, whose rows of the embedding, and of the output layer, train beside LoRA.

    A word that is a token already is trained as it is; any other is added to the tokenizer, and its rows begin as the
    mean of those of the tokens that it was made of. Its rows are float32 [n, H] while they train, and no weight decay
    pulls them towards zero.

    Args:
        tokens: the words, or a UTF-8 text file with one in each line.
        lr: their learning rate; null: the optimizer's.
    """

    tokens: list[str] | str
    lr: PositiveFloat | None = None


Rows = Mapping[int, Sequence[int]]  # a token's id, and those of the tokens whose mean its row begins with


def extended_tokenizer(base: str, words: Sequence[str]) -> tuple[PreTrainedTokenizerBase, Rows]:
    """A base's tokenizer with words added, and what each word's row begins with.

    A word of letters with spaces between words is found as a whole word alone: "tsa" is not found in "tsai". One with
    a Han character in it is found anywhere.

    Raises:
        InputError: the tokenizer cannot take a word without reading the text around it otherwise.
    """
    tokenizer, plain = load_tokenizer(base), load_tokenizer(base)
    known, added = _divide(plain, words)
    rows: dict[int, Sequence[int]] = {number: (number,) for number in known}
    _add(tokenizer, list(added))
    for word, pieces in added.items():
        rows[int(tokenizer.convert_tokens_to_ids(word))] = tuple(pieces)
        _check_added(base, plain, tokenizer, word)
    return tokenizer, dict(sorted(rows.items()))


def written_tokenizer(base: str, adapter: str | None, words: Sequence[str]) -> PreTrainedTokenizerBase | None:
    """The tokenizer to save beside an adapter, as the base's files have it but for added words; None: the base's own.

    Args:
        adapter: which the training went on from.
        words: that were added in it.
    """
    if words:
        tokenizer = read_tokenizer(base)
        _add(tokenizer, list(_divide(tokenizer, words)[1]))
        return tokenizer
    return read_tokenizer(adapter) if adapter is not None and brings_tokenizer(adapter) else None


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write a tokenizer's files, and its added words once more for programs that read a SentencePiece model first.

    llama.cpp's converter is one: without added_tokens.json it would call them unused.
    """
    tokenizer.save_pretrained(str(folder))
    special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    added = {word: number for word, number in tokenizer.get_added_vocab().items() if number not in special}
    if added:
        write_json(folder / "added_tokens.json", added)


def _divide(
    tokenizer: PreTrainedTokenizerBase, words: Sequence[str]
) -> tuple[list[int], dict[str, list[int]]]:
    """Ids of the words that are one token already, and the tokens that each of the others is made of."""
    known, added, vocabulary = [], {}, tokenizer.get_vocab()
    for word in words:
        pieces = _pieces(tokenizer, word)
        number = vocabulary.get(word, next((found[0] for found in pieces if len(found) == 1), None))
        if number is None:
            added[word] = pieces[0]
        else:
            known.append(number)
    return known, added


def _add(tokenizer: PreTrainedTokenizerBase, words: Sequence[str]) -> None:
    from tokenizers import AddedToken

    made: list[Any] = [
        AddedToken(word, normalized=False, single_word=UNSPACED.search(word) is None) for word in words
    ]
    tokenizer.add_tokens(made)


def _pieces(tokenizer: PreTrainedTokenizerBase, word: str) -> list[list[int]]:
    """Ids of the tokens that cover a word within a text, and after a space."""
    found = []
    for before in (NOWHERE, f"{NOWHERE} "):
        encoded = tokenizer(
            before + word, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True
        )
        covered = zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
        ids = [number for number, (start, end) in covered if start >= len(NOWHERE) and end > len(before)]
        found.append(ids or tokenizer(word, add_special_tokens=False)["input_ids"])
    return found


def _check_added(
    base: str, plain: PreTrainedTokenizerBase, extended: PreTrainedTokenizerBase, word: str
) -> None:
    """Refuse a word after which a tokenizer reads on as if a text began, and so would write back another text."""
    text = f"{NOWHERE}{word}{NOWHERE} {word} a"
    before, after = (
        tokenizer.decode(
            tokenizer(text, add_special_tokens=False)["input_ids"], clean_up_tokenization_spaces=False
        )
        for tokenizer in (plain, extended)
    )
    if before != after:
        raise InputError(
            f"The tokenizer of {base} does not take {word!r} as one token: of {text!r} it would make {after!r}. Leave "
            "that word out."
        )
