"""The one prompt: training and prediction render and encode a question here and nowhere else."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from taigi_lightning.errors import InputError
from taigi_lightning.tasks.chat_template import encode_conversation, turn_end
from taigi_lightning.tasks.question_prompt import FOUR_CHOICE, QuestionPrompt
from taigi_lightning.tasks.questions import Question

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ANSWERS = FOUR_CHOICE.answers
IGNORE = -100  # a label that is not trained on

Supervise = Literal["answer", "everything"]


@dataclass(frozen=True, slots=True)
class Prompt:
    """A question as token ids, ready to be answered.

    `input_ids` ends where the answers part, so that for every answer `input_ids + answers[a]` is the
    encoding of prompt and answer together; most tokenizers part right after `答案：`. `ending` follows every
    answer: EOS, or what the chat template puts there. `cut_characters` counts what the passage lost.
    """

    input_ids: list[int]
    answers: tuple[list[int], ...]
    ending: list[int]
    cut_characters: int


@dataclass(frozen=True, slots=True)
class Example:
    """A training example: `input_ids` and unshifted `labels` of one length, -100 where unsupervised."""

    input_ids: list[int]
    labels: list[int]
    cut_characters: int


def render_prompt(question: Question, prompt: QuestionPrompt = FOUR_CHOICE) -> str:
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
    return prompt.render(question)


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase,
    question: Question,
    max_length: int,
    examples: Sequence[Question] = (),
    chat_template: bool = False,
    style: QuestionPrompt = FOUR_CHOICE,
) -> Prompt:
    """Encode a question and its possible answers, after solved examples if there are any.

    With `chat_template` the question is what a user says, and the answer is the assistant's: the ids are those of
    `apply_chat_template`, and examples are earlier turns.

    Where prompt, answer and EOS together exceed `max_length` tokens, the passage loses characters from its
    middle, as few as will do; question, options and answer stay whole. `style` is how the question is written out.

    Raises:
        InputError: question and options alone are too long, or the chat template cannot be used.
    """

    def encode(asked: Question) -> list[list[int]]:
        return _encode_with_answers(tokenizer, asked, examples, chat_template, style)

    encoded, cut = encode(question), 0
    if not _fits(encoded, max_length):
        question, cut = _cut_to_fit(question, max_length, encode)
        encoded = encode(question)
    shared = _common(encoded)
    tails = [ids[shared:] for ids in encoded]
    ended = _common([tail[::-1] for tail in tails]) if chat_template else 1
    answers = [tail[: len(tail) - ended] for tail in tails]
    if any(one != other and other[: len(one)] == one for one in answers for other in answers):
        ended -= 1  # 1 begins 10 as well: what ends an answer tells them apart
        answers = [tail[: len(tail) - ended] for tail in tails]
    return Prompt(encoded[0][:shared], tuple(answers), tails[0][len(tails[0]) - ended :], cut)


def encode_example(
    tokenizer: PreTrainedTokenizerBase,
    question: Question,
    max_length: int,
    supervise: Supervise = "answer",
    chat_template: bool = False,
    style: QuestionPrompt = FOUR_CHOICE,
) -> Example:
    """Encode a question with its right answer and EOS for training.

    Args:
        tokenizer: The base model's.
        question: It must have an answer.
        max_length: The most tokens, EOS included; see `encode_prompt`.
        supervise: "answer" trains on the answer and EOS, or what ends a turn, "everything" on all but the first.
        chat_template: See `encode_prompt`.
        style: How the question is written out, and what its answers are called.

    Raises:
        InputError: the question has no answer, or it is too long without its passage.
    """
    if question.answer is None:
        raise InputError(f"Question {question.id} (row {question.row}) has no answer to train on. Add it.")
    prompt = encode_prompt(tokenizer, question, max_length, chat_template=chat_template, style=style)
    answer = prompt.answers[question.answer - 1]
    end = turn_end(tokenizer, prompt.ending) if chat_template else len(prompt.ending)
    # A template may go on after the turn, as with a line break, which no answer needs.
    labels = [*answer, *prompt.ending[:end], *([IGNORE] * (len(prompt.ending) - end))]
    context = (
        [IGNORE, *prompt.input_ids[1:]] if supervise == "everything" else [IGNORE] * len(prompt.input_ids)
    )
    ids = [*prompt.input_ids, *answer, *prompt.ending]
    return Example(ids, context + labels, prompt.cut_characters)


def encode_text(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    """Encode texts with BOS where the tokenizer has one, without EOS; `</s>` written in a text stays text."""
    encoded: list[list[int]] = tokenizer(texts, split_special_tokens=True, verbose=False)["input_ids"]
    eos = tokenizer.eos_token_id
    return [ids[:-1] if ids and ids[-1] == eos else ids for ids in encoded]


def solved_text(examples: Sequence[Question], style: QuestionPrompt) -> str:
    """Solved examples as the text that stands before a question; empty without any."""
    return "".join(f"{asked}{answer}\n\n" for asked, answer in _solved(examples, style))


def _solved(examples: Sequence[Question], style: QuestionPrompt) -> list[tuple[str, str]]:
    """Examples written out, with their answers."""
    return [(style.render(example), style.answers[(example.answer or 1) - 1]) for example in examples]


def _encode_with_answers(
    tokenizer: PreTrainedTokenizerBase,
    question: Question,
    examples: Sequence[Question],
    chat_template: bool,
    style: QuestionPrompt,
) -> list[list[int]]:
    """The question with each of its answers, whole to the end."""
    prompt = style.render(question)
    if chat_template:
        solved = _solved(examples, style)
        where = f"question {question.id}"
        return [
            encode_conversation(tokenizer, [*solved, (prompt, answer)], where) for answer in style.answers
        ]
    preamble = solved_text(examples, style)
    texts = encode_text(tokenizer, [preamble + prompt + answer for answer in style.answers])
    return [[*ids, tokenizer.eos_token_id] for ids in texts]


def _common(sequences: list[list[int]]) -> int:
    """How many leading tokens all sequences share."""
    parting = (i for i, tokens in enumerate(zip(*sequences, strict=False)) if len(set(tokens)) > 1)
    return next(parting, min(map(len, sequences)))


def _fits(encoded: list[list[int]], max_length: int) -> bool:
    return max(map(len, encoded)) <= max_length


def _cut_to_fit(
    question: Question, max_length: int, encode: Callable[[Question], list[list[int]]]
) -> tuple[Question, int]:
    """Find the most passage characters that fit, by bisection."""
    fits, too_many = -1, len(question.passage)
    while too_many - fits > 1:
        kept = (fits + too_many) // 2
        shorter = replace(question, passage=cut_middle(question.passage, kept))
        if _fits(encode(shorter), max_length):
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
