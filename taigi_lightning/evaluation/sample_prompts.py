"""What a model is asked to go on with for the report: prompts of the config, or beginnings of held-out texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from taigi_lightning.data.cpt import CPTDataModule
from taigi_lightning.data.instruction import InstructionDataModule
from taigi_lightning.data.packing import Blocks
from taigi_lightning.evaluation.sample_answers import spread
from taigi_lightning.tasks.conversation_tokens import encode_open_conversation
from taigi_lightning.tasks.conversations import Conversation
from taigi_lightning.tasks.prompts import IGNORE, encode_text

SHOWN = 3
TORN = "\ufffd"  # what is read of a part of a character
SHORTEST = 8  # tokens of a text that is begun
BEGINNING = 24  # tokens of a text that are given at most, and at most half of it


@dataclass(frozen=True)
class Prompt:
    """What a model goes on with.

    Args:
        ids: token ids, BOS included.
        text: the same to read.
        goes_on: how the held-out text itself goes on; None for a prompt of the config.
    """

    ids: list[int]
    text: str
    goes_on: str | None = None


def given_prompts(texts: Sequence[str], data: Any, tokenizer: PreTrainedTokenizerBase) -> list[Prompt]:
    """Prompts of the config, as the run's data have texts or the first turn of a conversation.

    Raises:
        InputError: the chat template takes none of them, or a text holds a special token.
    """
    if not asks_in_turns(data, tokenizer):
        return [
            Prompt(ids, text)
            for ids, text in zip(encode_text(tokenizer, list(texts)), texts, strict=True)
            if ids
        ]
    templated = bool(getattr(tokenizer, "chat_template", None)) and bool(data.chat_template)
    asked = [Conversation("samples.prompts", ({"role": "user", "content": text},), b"") for text in texts]
    encoded = [encode_open_conversation(tokenizer, one, templated) for one in asked]
    return [Prompt(ids, text) for ids, text in zip(encoded, texts, strict=True)]


def asks_in_turns(data: Any, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a run's data are conversations, or questions in the chat template."""
    if isinstance(data, InstructionDataModule):
        return True
    return bool(getattr(data, "chat_template", False)) and bool(getattr(tokenizer, "chat_template", None))


def held_out_prompts(
    data: Any, tokenizer: PreTrainedTokenizerBase, count: int, reference: int, longest: int
) -> list[Prompt]:
    """Beginnings of some held-out texts, or what comes before the first answer of as many held-out conversations.

    They are spread evenly over those whose prompt is short enough, and alike ones count once: chosen by place, not by
    outcome.

    Args:
        data: the run's, after `setup`.
        tokenizer: the base's.
        count: how many at most.
        reference: tokens shown of how each goes on.
        longest: tokens that a prompt may have.

    Returns:
        as many as there are; none of other data than texts and conversations.
    """
    if not isinstance(data, CPTDataModule | InstructionDataModule):
        return []
    found: dict[bytes, tuple[Blocks, int, int, int]] = {}
    for blocks in (split.blocks for split in data.held_out_splits().values()):
        cuts = (
            _openings(blocks)
            if isinstance(data, InstructionDataModule)
            else _beginnings(blocks, data.max_length)
        )
        for start, cut, end in cuts:
            if cut - start <= longest:
                found.setdefault(blocks.tokens[start:cut].tobytes(), (blocks, start, cut, end))
    places = list(found.values())
    prompts = []
    for place in spread(len(places), count):
        blocks, start, cut, end = places[place]
        text = _read(tokenizer, blocks.tokens[start:cut].tolist())
        while text.endswith(TORN) and cut > start + 1:
            cut -= 1
            text = _read(tokenizer, blocks.tokens[start:cut].tolist())
        rest = _read(tokenizer, blocks.tokens[cut : min(end, cut + reference)].tolist())
        prompts.append(Prompt(blocks.tokens[start:cut].tolist(), text, rest.rstrip(TORN)))
    return prompts


def _read(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=True))


def _pieces(blocks: Blocks) -> Iterator[tuple[int, int]]:
    """Where each piece of the documents begins and ends, in their order."""
    order = np.argsort(blocks.packing.starts, kind="stable")
    starts = blocks.packing.starts[order]
    yield from zip(starts.tolist(), (starts + blocks.packing.lengths[order]).tolist(), strict=True)


def _beginnings(blocks: Blocks, width: int) -> Iterator[tuple[int, int, int]]:
    """Start, cut and end of each document's first piece: one after a piece of a whole row may go on with that."""
    before = 0
    for start, end in _pieces(blocks):
        if before < width and end - start >= SHORTEST:
            yield start, start + min(BEGINNING, (end - start) // 2), end
        before = end - start


def _openings(blocks: Blocks) -> Iterator[tuple[int, int, int]]:
    """Start of each conversation, where its first answer begins, and where that ends."""
    for start, end in _pieces(blocks):
        supervised = blocks.labels[start:end] != IGNORE
        first = int(supervised.argmax())
        if first > 0:
            length = int((~supervised[first:]).argmax()) or end - start - first
            yield start, start + first, start + first + length
