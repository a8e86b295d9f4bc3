"""The one prompt: training and prediction render and encode a question here and nowhere else."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from taigi_lightning.errors import InputError
from taigi_lightning.tasks.questions import Question

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ANSWERS = ("1", "2", "3", "4")
IGNORE = -100  # a label that is not trained on

Supervise = Literal["answer", "everything"]


@dataclass(frozen=True, slots=True)
class Prompt:
    """A question as token ids, ready to be answered.

    `input_ids` ends where the four answers part, so that for every answer `input_ids + answers[a]` is the
    encoding of prompt and answer together; most tokenizers part right after `答案：`. `cut_characters`
    counts what the passage lost.
    """

    input_ids: list[int]
    answers: tuple[list[int], list[int], list[int], list[int]]
    cut_characters: int


@dataclass(frozen=True, slots=True)
class Example:
    """A training example: `input_ids` and unshifted `labels` of one length, -100 where unsupervised."""

    input_ids: list[int]
    labels: list[int]
    cut_characters: int


def render_prompt(question: Question) -> str:
    """Write a question out, up to the place where its answer goes.

    >>> print(render_prompt(Question("1", "阿明去市仔。", "去佗位？", ("市仔", "厝", "", "海"), 1, 1)))
    根據前文內容回答問題
    前文：阿明去市仔。
    問題：去佗位？
    根據問題，從以下四個選項選出正確的選項編號(1-4)
    選項1：市仔
    選項2：厝
    選項3：
    選項4：海
    答案：
    """
    options = "".join(f"選項{number}：{option}\n" for number, option in enumerate(question.options, start=1))
    return (
        "根據前文內容回答問題\n"
        f"前文：{question.passage}\n"
        f"問題：{question.question}\n"
        "根據問題，從以下四個選項選出正確的選項編號(1-4)\n"
        f"{options}"
        "答案："
    )


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase, question: Question, max_length: int, preamble: str = ""
) -> Prompt:
    """Encode a question and its four possible answers, after `preamble` if there is one.

    Where prompt, answer and EOS together exceed `max_length` tokens, the passage loses characters from its
    middle, as few as will do; question, options and answer stay whole.

    Raises:
        InputError: question and options alone are too long.
    """
    encoded = _encode_with_answers(tokenizer, question, preamble)
    cut = 0
    if not _fits(encoded, max_length):
        question, cut = _cut_to_fit(tokenizer, question, max_length, preamble)
        encoded = _encode_with_answers(tokenizer, question, preamble)
    parting = (i for i, tokens in enumerate(zip(*encoded, strict=False)) if len(set(tokens)) > 1)
    shared = next(parting, min(map(len, encoded)))  # the default: answers the tokenizer cannot tell apart
    one, two, three, four = (ids[shared:] for ids in encoded)
    return Prompt(encoded[0][:shared], (one, two, three, four), cut)


def encode_example(
    tokenizer: PreTrainedTokenizerBase,
    question: Question,
    max_length: int,
    supervise: Supervise = "answer",
) -> Example:
    """Encode a question with its right answer and EOS for training.

    Args:
        tokenizer: The base model's.
        question: It must have an answer.
        max_length: The most tokens, EOS included; see `encode_prompt`.
        supervise: "answer" trains on the answer and EOS, "everything" on all tokens but the first.

    Raises:
        InputError: the question has no answer, or it is too long without its passage.
    """
    if question.answer is None:
        raise InputError(f"Question {question.id} (row {question.row}) has no answer to train on. Add it.")
    prompt = encode_prompt(tokenizer, question, max_length)
    target = [*prompt.answers[question.answer - 1], tokenizer.eos_token_id]
    context = (
        [IGNORE, *prompt.input_ids[1:]] if supervise == "everything" else [IGNORE] * len(prompt.input_ids)
    )
    return Example(prompt.input_ids + target, context + target, prompt.cut_characters)


def encode_text(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    """Encode texts with BOS where the tokenizer has one, without EOS; `</s>` written in a text stays text."""
    encoded: list[list[int]] = tokenizer(texts, split_special_tokens=True, verbose=False)["input_ids"]
    eos = tokenizer.eos_token_id
    return [ids[:-1] if ids and ids[-1] == eos else ids for ids in encoded]


def _encode_with_answers(
    tokenizer: PreTrainedTokenizerBase, question: Question, preamble: str
) -> list[list[int]]:
    prompt = preamble + render_prompt(question)
    return encode_text(tokenizer, [prompt + answer for answer in ANSWERS])


def _fits(encoded: list[list[int]], max_length: int) -> bool:
    return max(map(len, encoded)) + 1 <= max_length  # 1 for EOS


def _cut_to_fit(
    tokenizer: PreTrainedTokenizerBase, question: Question, max_length: int, preamble: str
) -> tuple[Question, int]:
    """Find the most passage characters that fit, by bisection."""
    fits, too_many = -1, len(question.passage)
    while too_many - fits > 1:
        kept = (fits + too_many) // 2
        shorter = replace(question, passage=cut_middle(question.passage, kept))
        if _fits(_encode_with_answers(tokenizer, shorter, preamble), max_length):
            fits = kept
        else:
            too_many = kept
    if fits < 0:
        raise InputError(
            f"Question {question.id} (row {question.row}) is longer than max_length={max_length} tokens "
            "even without its passage. Raise max_length or shorten the options."
        )
    passage = cut_middle(question.passage, fits)
    return replace(question, passage=passage), len(question.passage) - len(passage)


def cut_middle(text: str, kept: int) -> str:
    """Take characters from the middle of a text until at most `kept` are left.

    A letter never loses its combining marks nor a mark its letter.

    >>> cut_middle("一二三四五六七", 4)
    '一二六七'
    >>> cut_middle("chia̍h-pn̄g", 7)
    'chin̄g'
    """
    if kept >= len(text):
        return text
    head, tail = kept - kept // 2, len(text) - kept // 2
    while head > 0 and unicodedata.combining(text[head]):
        head -= 1
    while tail < len(text) and unicodedata.combining(text[tail]):
        tail += 1
    return text[:head] + text[tail:]
