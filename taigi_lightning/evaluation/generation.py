"""Text that a model writes: continuations and answers, sampled or greedy, streamed or in batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jsonargparse.typing import (
    ClosedUnitInterval,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
)
from transformers import GenerationConfig, PreTrainedTokenizerBase, TextStreamer

from taigi_lightning.data.collate import pad_left
from taigi_lightning.errors import InputError
from taigi_lightning.evaluation.greedy_answers import GENERATE_ALONE
from taigi_lightning.fast_path.apply import causal_lm
from taigi_lightning.tasks.conversation_tokens import answer_ends, encode_open_conversation
from taigi_lightning.tasks.conversations import Conversation
from taigi_lightning.tasks.prompts import encode_text
from taigi_lightning.terminal import print_written


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen; the names and meanings are those of transformers' GenerationConfig.

    Args:
        max_new_tokens: where a text that does not end by itself is cut.
        temperature: 0 takes the likeliest token, always the same text; above it, higher is more varied.
        top_p: only the likeliest tokens that together have this probability.
        top_k: only so many of the likeliest tokens; 0 for all.
        min_p: only tokens of at least this share of the likeliest one's probability; 0 for all.
        typical_p: only the tokens nearest to what is expected that together have this probability; 1 for all.
        repetition_penalty: above 1 makes tokens that occurred less likely.
        no_repeat_ngram_size: so many tokens in a row never occur twice; 0 lets them.
        seed: the same seed writes the same texts on the same machine.
    """

    max_new_tokens: PositiveInt = 200
    temperature: NonNegativeFloat = 0.7
    top_p: ClosedUnitInterval = 0.9
    top_k: NonNegativeInt = 50
    min_p: ClosedUnitInterval = 0.0
    typical_p: ClosedUnitInterval = 1.0
    repetition_penalty: PositiveFloat = 1.0
    no_repeat_ngram_size: NonNegativeInt = 0
    seed: NonNegativeInt = 9527

    def config(self, tokenizer: PreTrainedTokenizerBase, ends: list[int]) -> GenerationConfig:
        """As transformers has it.

        Args:
            tokenizer: the model's own.
            ends: tokens that end a text.
        """
        sampled = {
            "temperature": float(self.temperature),
            "top_p": float(self.top_p),
            "top_k": int(self.top_k),
            "min_p": float(self.min_p),
            "typical_p": float(self.typical_p),
        }
        padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        return GenerationConfig(
            do_sample=self.temperature > 0,
            max_new_tokens=int(self.max_new_tokens),
            repetition_penalty=float(self.repetition_penalty),
            no_repeat_ngram_size=int(self.no_repeat_ngram_size),
            pad_token_id=padding,
            eos_token_id=ends,
            bos_token_id=tokenizer.bos_token_id,
            use_cache=True,
            **(sampled if self.temperature > 0 else {}),
        )

    def described(self) -> dict[str, Any]:
        """The settings as plain values."""
        return {
            name: float(value) if isinstance(value, float) else int(value)
            for name, value in asdict(self).items()
        }


@dataclass(frozen=True, slots=True)
class Written:
    """What a model wrote; `finished` says that it ended by itself, not at the limit."""

    text: str
    finished: bool


class _Streamed(TextStreamer):  # type: ignore[misc]
    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        print_written(text + "\n" * stream_end)


class TextWriter:
    """A model that writes on.

    Args:
        model: a causal language model of transformers, or a PEFT model around one, in eval mode.
        tokenizer: its own.
        sampling: how the next token is chosen.
        chat: whether prompts are conversations to answer, in the tokenizer's chat template where it has one; otherwise
            they are beginnings of texts.
    """

    def __init__(
        self, model: Any, tokenizer: PreTrainedTokenizerBase, sampling: Sampling, *, chat: bool
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.sampling = sampling
        self.chat = chat
        self.templated = chat and bool(getattr(tokenizer, "chat_template", None))
        self.settings = sampling.config(tokenizer, answer_ends(tokenizer, self.templated))

    def encode(self, conversation: Conversation) -> list[int]:
        """Token ids of a prompt, BOS included.

        Raises:
            InputError: it leaves no place for anything to be written, is a conversation and no text to go on with, or
                the chat template does not take it.
        """
        if self.chat:
            ids = encode_open_conversation(self.tokenizer, conversation, self.templated)
        elif len(conversation.messages) > 1:
            raise InputError(
                f"{conversation.place} is a conversation of several turns. Give --chat to have it answered."
            )
        else:
            ids = encode_text(self.tokenizer, [conversation.messages[-1]["content"]])[0]
        if not ids:  # an empty prompt to a tokenizer without BOS
            raise InputError(
                f"{conversation.place} is empty, and this tokenizer has no token to begin a text with."
            )
        places = getattr(causal_lm(self.model).config.get_text_config(), "max_position_embeddings", None)
        if places is not None and len(ids) + self.sampling.max_new_tokens > places:
            raise InputError(
                f"{conversation.place} has {len(ids)} tokens: with max_new_tokens={self.sampling.max_new_tokens} that "
                f"is more than the {places} which the model reads. Shorten it, or lower --max_new_tokens."
            )
        return ids

    @torch.no_grad()
    def write(self, prompts: Sequence[Sequence[int]], number: int = 0) -> list[Written]:
        """Continue prompts, as one left-padded batch.

        Args:
            prompts: token ids, of any lengths.
            number: of the batch's first prompt; with the seed it decides what is drawn.
        """
        torch.manual_seed(self.sampling.seed * 1_000_003 + number)
        alone = getattr(causal_lm(self.model), GENERATE_ALONE, False)
        found: list[Written] = []
        for batch in [[prompt] for prompt in prompts] if alone else [prompts]:
            sequences = self._generate(batch)
            found += [self._written(new) for new in sequences[:, max(map(len, batch)) :].tolist()]
        return found

    @torch.no_grad()
    def stream(self, prompt: Sequence[int]) -> str:
        """Continue one prompt, printing the text as it is written; returns it."""
        torch.manual_seed(self.sampling.seed * 1_000_003)
        streamer = _Streamed(self.tokenizer, skip_prompt=True, skip_special_tokens=True)
        sequences = self._generate([prompt], streamer=streamer)
        return self._written(sequences[0, len(prompt) :].tolist()).text

    def _generate(self, prompts: Sequence[Sequence[int]], **options: Any) -> Any:
        device = self.model.get_output_embeddings().weight.device
        batch = pad_left(prompts, int(self.settings.pad_token_id))
        return self.model.generate(
            input_ids=batch["input_ids"].to(device),
            attention_mask=batch["attention_mask"].to(device),
            generation_config=self.settings,
            **options,
        )

    def _written(self, new: list[int]) -> Written:
        ends = set(self.settings.eos_token_id)
        end = next((place for place, token in enumerate(new) if token in ends), None)
        text = self.tokenizer.decode(new[:end], skip_special_tokens=True)
        return Written(text, end is not None)
