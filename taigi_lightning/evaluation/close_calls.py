"""Questions answered in 8 bits whose two likeliest answers lie close together: asked again in 16 bits.

Rounding to 8 bits moves the margin between a question's two likeliest answers by some d, and turns the answer where the
margin is smaller than that. How far margins move is seen from the closest questions, which are asked again first: d has
mean zero and, by its root mean square s over them, of a question with the margin m the share Q(m / s) is expected to be
answered otherwise in 16 bits, where Q is the tail of the normal distribution. So many more of the closest are asked
again that these shares, summed over all others, fall below `LEFT` of all answers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from taigi_lightning.evaluation.answers import predict_batch
from taigi_lightning.evaluation.gathering import gather, ranks
from taigi_lightning.evaluation.predictions import Prediction
from taigi_lightning.fast_path.apply import compute_in, fast_decoder
from taigi_lightning.fast_path.prefill import unpack_what_fits
from taigi_lightning.kernels.matmul import forward_in_8_bits
from taigi_lightning.tasks.question_batches import EncodedQuestion, plan_batches

LEFT = 0.005  # share of all answers that may be expected to be others in 16 bits
FIRST = 32  # asked again before anything is known: s is right within an eighth then
MANY = 0.25  # share of the questions, from which on 16 bits alone are as quick
Key = tuple[int, int]  # (row, rotation)


class Settled(NamedTuple):
    """What became of a run's predictions.

    Args:
        predictions: all of them, those that were asked again as 16 bits answered them, in the order they came in.
        said: one sentence on it; None if nothing was in 8 bits.
        many: so many were asked again that 8 bits hardly gained time.
    """

    predictions: list[Prediction]
    said: str | None = None
    many: bool = False


def settle_close_calls(module: Any, data: Any, predictions: Sequence[Prediction]) -> Settled:
    """Ask the closest calls again in 16 bits, if a model answered in 8 bits; every rank must call it with the same.

    Args:
        module: a `CausalLMModule` whose model is on its device.
        data: the `PredictDataModule` whose questions were answered.
        predictions: of all ranks.
    """
    decoder = fast_decoder(module.model)
    by_choice = module.answer_strategy == "choice" and bool(predictions)
    if decoder is None or not by_choice or not forward_in_8_bits(decoder.matmul):
        return Settled(list(predictions))
    matmul, questions = decoder.matmul, {(q.row, q.rotation): q for q in data.encoded}

    def ask(keys: Sequence[Key]) -> list[Prediction]:
        asked = [questions[key] for key in keys]
        return _ask(module, asked, data.batch_tokens, data.share_passages)

    with in_16_bits(module.model, data.batch_tokens):
        again, left = ask_closest({(p.row, p.rotation): p for p in predictions}, ask)
    settled = [again.get((p.row, p.rotation), p) for p in predictions]
    changed = sum(one.answer != other.answer for one, other in zip(settled, predictions, strict=True))
    count, every = len(again), len(predictions)
    said = (
        f"{matmul}: {count} of {every} answers were close calls and were asked again in 16 bits, which changed "
        f"{changed}; of the others {left / every:.1%} would be expected to differ there."
    )
    if many := count > MANY * every and count > FIRST:
        said += " With --model.matmul bf16 this would be as quick."
    return Settled(settled, said, many)


def ask_closest(
    predictions: Mapping[Key, Prediction], ask: Callable[[Sequence[Key]], list[Prediction]]
) -> tuple[dict[Key, Prediction], float]:
    """Ask the closest of all predictions again until few others are expected to differ.

    Args:
        predictions: of all ranks, with log-probabilities.
        ask: this rank's questions, in 16 bits; it may be given none.

    Returns:
        what was answered the second time, and how many of the others are expected to be answered otherwise.
    """
    closest = sorted(predictions, key=lambda key: (margin(predictions[key]), key))
    margins = [margin(predictions[key]) for key in closest]
    again: dict[Key, Prediction] = {}
    rank, count = ranks()
    wanted, left = min(FIRST, len(closest)), 0.0
    while wanted > len(again):
        mine = closest[len(again) : wanted][rank::count]
        again |= {(p.row, p.rotation): p for p in gather(ask(mine))}
        moved = [moved_by(predictions[key], found) for key, found in again.items()]
        spread = math.sqrt(math.fsum(d * d for d in moved) / len(moved))
        further, left = how_many(margins[len(again) :], spread, LEFT * len(closest))
        wanted = len(again) + further
    return again, left


def margin(prediction: Prediction) -> float:
    """How much likelier the likeliest answer is than the second, in nats."""
    first, second = sorted(prediction.log_probabilities or (0.0, 0.0), reverse=True)[:2]
    return first - second


def moved_by(before: Prediction, after: Prediction) -> float:
    """By how much the margin between the two answers that were likeliest before has changed, in nats."""
    old, new = before.log_probabilities, after.log_probabilities
    assert old is not None and new is not None
    first, second = sorted(range(len(old)), key=lambda option: -old[option])[:2]
    return (new[first] - new[second]) - (old[first] - old[second])


def how_many(margins: Sequence[float], spread: float, most: float) -> tuple[int, float]:
    """How many of the closest have to go so that at most `most` others are expected to turn; and how many are then.

    Args:
        margins: ascending, in nats.
        spread: the root mean square of what moves them, in nats.

    >>> how_many([0.0, 1.0, 2.0, 9.0], 1.0, most=0.2)
    (1, 0.181...)
    >>> how_many([0.0, 1.0], 0.0, most=0.0)
    (0, 0.0)
    """
    left = 0.0
    for place in reversed(range(len(margins))):
        turns = 0.5 * math.erfc(margins[place] / (spread * math.sqrt(2))) if spread > 0 else 0.0
        if left + turns > most:
            return place + 1, left
        left += turns
    return 0, left


def _ask(
    module: Any, questions: Sequence[EncodedQuestion], batch_tokens: int, share: bool
) -> list[Prediction]:
    batches = plan_batches(questions, batch_tokens, share=share)
    return [p for batch in batches for p in predict_batch(module.model, module.tokenizer, batch, "choice")]


@contextmanager
def in_16_bits(model: Any, tokens: int) -> Iterator[None]:
    """Let a model answer in 16 bits, and afterwards in what it did before; then it holds no weights, which takes time,
    until the next stage begins."""
    decoder = fast_decoder(model)
    assert decoder is not None
    matmul, held = decoder.matmul, decoder.unpacked
    compute_in(model, "bf16")
    if held:
        unpack_what_fits(model, tokens)
    try:
        yield
    finally:
        compute_in(model, matmul)
