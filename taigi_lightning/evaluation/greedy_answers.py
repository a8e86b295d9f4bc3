"""Answering by writing: prompts continued greedily, and the answer that a text begins with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerBase

from taigi_lightning.data.collate import pad_left
from taigi_lightning.evaluation.predictions import Prediction
from taigi_lightning.fast_path.apply import causal_lm, device_of
from taigi_lightning.tasks.question_batches import EncodedQuestion
from taigi_lightning.tasks.question_prompt import FOUR_CHOICE

MAX_NEW_TOKENS = 5
GENERATE_ALONE = "generate_alone"  # set in a model that takes the padding of a batch of prompts for text


def extract_answer(text: str, labels: Sequence[str] = FOUR_CHOICE.answers) -> int | None:
    """The number of the option that a generated text begins with, if it is one.

    Args:
        text: what was generated.
        labels: what the options are called; of two that fit the longer one counts.

    >>> extract_answer("3</s>"), extract_answer(" 2"), extract_answer("答案：1"), extract_answer("５")
    (3, 2, None, None)
    >>> extract_answer("10", [str(n) for n in range(1, 11)]), extract_answer("B)", ("A", "B"))
    (10, 2)
    """
    fitting = [label for label in labels if text.lstrip().startswith(label)]
    return labels.index(max(fitting, key=len)) + 1 if fitting else None


@torch.no_grad()
def generate_tokens(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> list[list[int]]:
    """Continue prompts greedily, as one left-padded batch.

    Args:
        prompts: token ids, of any lengths.
        max_new_tokens: where a text that does not end by itself is cut.

    Returns:
        the new token ids of each prompt; after EOS the rest is padding.
    """
    alone = getattr(causal_lm(model), GENERATE_ALONE, False)
    new: list[list[int]] = []
    for batch in [[prompt] for prompt in prompts] if alone else [prompts]:
        sequences = _generate(model, tokenizer, batch, max_new_tokens).sequences
        new += sequences[:, max(map(len, batch)) :].tolist()
    return new


def left_padded_logits(
    model: Any, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Sequence[int]], tokens: int
) -> Tensor:
    """Logits [tokens, V] with which the first of some prompts is continued, as one of their left-padded batch."""
    output = _generate(model, tokenizer, prompts, tokens, output_logits=True, min_new_tokens=tokens)
    return torch.stack(output.logits)[:, 0]


def _generate(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    tokens: int,
    **options: Any,
) -> Any:
    device = device_of(model)
    padding: int = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    batch = pad_left(prompts, padding)  # generate finds the positions from the mask by itself
    settings = GenerationConfig(
        do_sample=False,
        max_new_tokens=tokens,
        pad_token_id=padding,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
        use_cache=True,  # training switches it off in the model's config
        return_dict_in_generate=True,
        **options,
    )
    return model.generate(
        input_ids=batch["input_ids"].to(device),
        attention_mask=batch["attention_mask"].to(device),
        generation_config=settings,
    )


def extracted(question: EncodedQuestion, text: str) -> Prediction:
    """The answer a text begins with, or 1, brought back to the input's numbering."""
    shown = extract_answer(text, question.labels)
    answer = ((shown or 1) - 1 + question.rotation) % len(question.labels) + 1
    return Prediction(
        question.row,
        question.id,
        answer,
        None,
        text,
        shown is None,
        question.rotation,
        " ".join(question.labels),
    )
