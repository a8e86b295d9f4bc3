"""Questions answered in 8 bits whose two likeliest answers lie close together: asked again in 16 bits.

Rounding to 8 bits moves the margin between a question's two likeliest answers by some d, and turns the answer where the
margin is smaller than that. How far margins move is seen from the closest questions, which are asked again first. Of a
question with the margin m, half of the share of them whose d exceeds m is expected to be answered otherwise in 16 bits,
since d goes either way; or, where they are too few to tell, Q(m / s), with s the root mean square of d and Q the tail
of the normal distribution: the larger of both, since the first misses what was seldom, the second long tails. So many
more of the closest are asked again that these shares, summed over all others, fall below `LEFT` of all answers. Where a
question is asked in several orders of its options, its margin is that of all together, and it is asked again in all.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature

from taigi_lightning.evaluation.gathering import gather, ranks
from taigi_lightning.evaluation.predictions import Prediction, by_row, combine_rotations, log_shares
from taigi_lightning.fast_path.apply import compute_in, fast_decoder
from taigi_lightning.fast_path.prefill import unpack_what_fits
from taigi_lightning.kernels.matmul import forward_in_8_bits
from taigi_lightning.tasks.question_batches import plan_batches

LEFT = 0.005  # share of all answers that may be expected to be others in 16 bits
FIRST = 32  # asked again before anything is known: s is known within an eighth then
MANY = 0.25  # share of the questions: int8 was 1.67 times as fast with none, so asks at most 1.2 times as many a second
SMALLEST = 1e-9  # that a margin is divided by
Turns = Sequence[Prediction]  # one question's, of all orders of its options that it was asked in


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


def settle_close_calls(module: Any, data: Any, predictions: Sequence[Prediction], stage: str) -> Settled:
    """Ask the closest calls again in 16 bits, if a model answered in 8 bits; every rank must call it with the same.

    Args:
        module: a `CausalLMModule` whose model is on its device, in the hands of a trainer.
        data: the `PredictDataModule` whose questions were answered.
        predictions: of all ranks.
        stage: predict or test, by whose step they are asked again: a subclass may have its own.
    """
    decoder = fast_decoder(module.model)
    compared = bool(predictions) and all(p.log_probabilities is not None for p in predictions)
    if decoder is None or not compared or not forward_in_8_bits(decoder.matmul):
        return Settled(list(predictions))
    matmul, before = decoder.matmul, by_row(predictions)
    questions = {(q.row, q.rotation): q for q in data.encoded}
    step = _step(module, stage)

    def ask(rows: Sequence[int]) -> list[Prediction]:
        asked = [questions[turn.row, turn.rotation] for row in rows for turn in before[row]]
        batches = plan_batches(asked, data.batch_tokens, share=data.share_passages)
        return [p for index, batch in enumerate(batches) for p in step(batch, index)]

    with in_16_bits(module.model, data.batch_tokens):
        again, left = ask_closest(before, ask)
    found = {(turn.row, turn.rotation): turn for turns in again.values() for turn in turns}
    settled = [found.get((p.row, p.rotation), p) for p in predictions]
    changed = sum(
        combine_rotations(turns)[0] != combine_rotations(before[row])[0] for row, turns in again.items()
    )
    count, every = len(again), len(before)
    said = f"{matmul}: {count} of {every} answers were close calls and were asked again in 16 bits, "
    said += f"which changed {changed}"
    if count < every:
        said += f"; of the others {left / every:.1%} would be expected to differ there, "
        said += f"{hardly_more(left) / every:.1%} with bad luck"
    said += "."
    if many := count > MANY * every and count > FIRST:
        said += " That took most of the time saved: --model.matmul bf16 asks every question once."
    return Settled(settled, said, many)


def _step(module: Any, stage: str) -> Callable[..., list[Prediction]]:
    """What answers a batch, given its number too, as in the trainer's own loop: in its precision."""
    step = getattr(module.trainer.strategy, f"{stage}_step")
    if is_param_in_hook_signature(getattr(module, f"{stage}_step"), "batch_idx", min_args=2):
        return step  # type: ignore[no-any-return]
    return lambda batch, _: step(batch)


def ask_closest(
    before: Mapping[int, Turns], ask: Callable[[Sequence[int]], list[Prediction]]
) -> tuple[dict[int, Turns], float]:
    """Ask the closest of all questions again until few others are expected to be answered otherwise.

    Args:
        before: the predictions of all ranks on each question, with log-probabilities.
        ask: this rank's questions, in 16 bits; it may be given none.

    Returns:
        what was answered the second time, and how many of the others are expected to be answered otherwise.
    """
    closest = sorted(before, key=lambda row: (margin(before[row]), row))
    margins = [margin(before[row]) for row in closest]
    again: dict[int, Turns] = {}
    rank, count = ranks()
    wanted, left = min(FIRST, len(closest)), 0.0
    while wanted > len(again):
        chosen = closest[len(again) : wanted]
        found = {(p.row, p.rotation): p for p in gather(ask(chosen[rank::count]))}
        again |= {row: [found.get((p.row, p.rotation), p) for p in before[row]] for row in chosen}
        further, left = how_many(margins[wanted:], _moved(before, again), LEFT * len(closest))
        wanted += further if further <= FIRST else (further + 1) // 2  # half: by then more is known of d
    return again, left


def _moved(before: Mapping[int, Turns], again: Mapping[int, Turns]) -> list[float]:
    """By how much margins were moved either way, in nats, ascending; without what is no number."""
    pairs = (pair for row, turns in again.items() for pair in zip(before[row], turns, strict=True))
    return sorted(abs(d) for d in (moved_by(*pair) for pair in pairs) if math.isfinite(d))


def margin(turns: Turns) -> float:
    """How much likelier the likeliest answer is than the second, in nats of one order; none if that is no number.

    The difference of both logarithms, over how much more than with one order alone it moves where the log-probabilities
    of every order are moved at random: hardly, where orders contradict each other and each is sure.
    """
    whole = log_shares(turns)
    first, second = sorted(range(len(whole)), key=lambda option: -whole[option])[:2]
    apart = whole[first] - whole[second]
    if math.isnan(apart):
        return 0.0
    return apart / max(_sensitivity(turns, whole, first, second), SMALLEST) if len(turns) > 1 else apart


def _sensitivity(turns: Turns, whole: Sequence[float], first: int, second: int) -> float:
    """The norm of the derivative of whole[first] - whole[second] by all log-probabilities, over that of one order."""
    squares = 0.0
    for turn in turns:
        own = log_shares([turn])
        up, down = (math.exp(own[option] - whole[option]) / len(turns) for option in (first, second))
        for option, value in enumerate(own):
            share = math.exp(value)
            squares += (up * ((option == first) - share) - down * ((option == second) - share)) ** 2
    return math.sqrt(squares / 2)


def moved_by(before: Prediction, after: Prediction) -> float:
    """By how much the margin between the two answers that were likeliest before has changed, in nats."""
    old, new = before.log_probabilities, after.log_probabilities
    assert old is not None and new is not None
    first, second = sorted(range(len(old)), key=lambda option: -old[option])[:2]
    return (new[first] - new[second]) - (old[first] - old[second])


def how_many(margins: Sequence[float], moved: Sequence[float], most: float) -> tuple[int, float]:
    """How many of the closest have to go so that at most `most` others are expected to turn; and how many are then.

    Args:
        margins: ascending, in nats.
        moved: by how much others were moved either way, ascending, in nats; if by nothing that is known, half turn.

    >>> how_many([0.0, 1.0, 2.0, 9.0], [1.0], most=0.2)
    (1, 0.181...)
    >>> how_many([0.5, 1.0, 2.0, 9.0], [0.0, 0.0, 0.0, 3.0], most=0.2)  # of the normal distribution 0.091 at 2.0
    (2, 0.125...)
    >>> how_many([0.0, 1.0], [0.0], most=0.0)
    (0, 0.0)
    """
    count, left = len(moved), 0.0
    spread = math.sqrt(math.fsum(d * d for d in moved) / count) if count else math.inf
    for place in reversed(range(len(margins))):
        never = spread == 0 or math.isinf(margins[place])
        turns = 0.0 if never else 0.5 * math.erfc(margins[place] / (spread * math.sqrt(2)))
        if count:
            turns = max(turns, (count - bisect_right(moved, margins[place])) / count / 2)
        if left + turns > most:
            return place + 1, left
        left += turns
    return 0, left


def hardly_more(expected: float) -> int:
    """What a count does not exceed in 19 of 20 cases, if so many are expected and each comes by itself (Poisson).

    >>> [hardly_more(expected) for expected in (0.0, 0.5, 3.0, 7.0)]
    [0, 2, 6, 12]
    """
    return math.ceil(expected + 1.645 * math.sqrt(expected))


@contextmanager
def in_16_bits(model: Any, tokens: int) -> Iterator[None]:
    """Let a model answer in 16 bits, and afterwards in what it did before; then it holds no weights, which takes time,
    until the next stage begins."""
    decoder = fast_decoder(model)
    assert decoder is not None
    matmul, held = decoder.matmul, decoder.unpacked
    try:
        compute_in(model, "bf16")
        if held:
            unpack_what_fits(model, tokens)
        yield
    finally:
        compute_in(model, matmul)
