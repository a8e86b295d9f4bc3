"""Instructions in the small language: questions about a passage with written answers, and words to translate."""

import random

from corpus_tools.sample.language import TAIGI_WORDS
from corpus_tools.sample.texts import question_set

ASKED_WORDS = ("「{zh}」的台語按怎講？", "共「{zh}」翻譯做台語。", "台語的「{zh}」是啥？")

Message = dict[str, str]


def instruction_rows(rng: random.Random, count: int) -> list[dict[str, list[Message]]]:
    """Conversations as lists of messages, two of three about a passage, the others about a word.

    Args:
        rng: decides all of them.
        count: how many.
    """
    read = question_set(rng, "training", count - count // 3)
    asked = [(f"{q.passage}\n{q.question}", f"{q.options[q.answer - 1]}。") for q in read]
    words = sorted(TAIGI_WORDS.items())
    for _ in range(count // 3):
        mandarin, taigi = rng.choice(words)
        asked.append((rng.choice(ASKED_WORDS).format(zh=mandarin), f"{taigi}。"))
    rng.shuffle(asked)
    return [
        {"messages": [{"role": "user", "content": user}, {"role": "assistant", "content": answer}]}
        for user, answer in asked
    ]
