"""Answering multiple-choice questions: by comparing the answers' probabilities, or by generating text."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from taigi_lightning.errors import InputError
from taigi_lightning.evaluation.greedy_answers import extracted, generate_tokens
from taigi_lightning.evaluation.predictions import Prediction, choose
from taigi_lightning.fast_path.apply import causal_lm, device_of, fast_decoder
from taigi_lightning.fast_path.output_head import OutputHead, output_head
from taigi_lightning.fast_path.own_pass import own_hidden
from taigi_lightning.fast_path.prefill import last_hidden
from taigi_lightning.tasks.prefix_tree import TokenTree, pack_trees, pad_trees, token_tree
from taigi_lightning.tasks.question_batches import EncodedQuestion, QuestionBatch

Strategy = Literal["choice", "generate"]

READ_ALONE = "read_alone"  # set in a model whose self-check found that rows must not branch


def predict_batch(
    model: Any, tokenizer: PreTrainedTokenizerBase, batch: QuestionBatch, strategy: Strategy
) -> list[Prediction]:
    """Answer every question of a batch, in its order.

    Args:
        model: a causal language model of transformers, or a PEFT model around one, in eval mode.
        tokenizer: the model's own.
        batch: from `PredictDataModule`.
        strategy: "choice" compares the answers' log-probabilities, "generate" decodes greedily.

    Raises:
        InputError: it is another kind of batch.
    """
    if not isinstance(batch, QuestionBatch):
        raise InputError(
            f"`predict` and `test` answer questions, in batches of a PredictDataModule; this one is a "
            f"{type(batch).__name__}. For a text's logits call the module itself: module(input_ids).logits."
        )
    if strategy == "choice":
        rows = answer_log_probabilities(model, batch).tolist()
        pairs = list(zip(batch.questions, rows, strict=True))
        if lost := [question.id for question, row in pairs if not _comparable(row)]:
            raise InputError(
                f"The probabilities of question {lost[0]}'s answers are no numbers, {len(lost)} such in its batch: the "
                "model's values overflow, or its adapter holds NaN. Take the adapter of an earlier step, or set "
                "--trainer.precision bf16-mixed and --model.matmul bf16."
            )
        return [_chosen(question, row) for question, row in pairs]
    tokens = generate_tokens(model, tokenizer, [question.prompt for question in batch.questions])
    texts = [tokenizer.decode(new, skip_special_tokens=True) for new in tokens]
    return [extracted(question, text) for question, text in zip(batch.questions, texts, strict=True)]


def choice_accuracy_batch(model: Any, batch: QuestionBatch) -> tuple[int, int]:
    """How many questions of a batch are answered correctly by comparing probabilities, and how many there are.

    One whose probabilities are NaN, as once training has diverged, counts as answered wrongly.

    Args:
        model: as for `predict_batch`.
        batch: questions whose `answer` is known.
    """
    rows = answer_log_probabilities(model, batch).tolist()
    pairs = list(zip(batch.questions, rows, strict=True))
    answered = [(question, _chosen(question, row)) for question, row in pairs if _comparable(row)]
    return sum(given.answer == question.answer for question, given in answered), len(pairs)


# ---- choice ---------------------------------------------------------------------------------------


@torch.no_grad()
def answer_log_probabilities(model: Any, batch: QuestionBatch) -> Tensor:
    """Log-probability of each whole answer after its prompt, from one forward pass.

    Each group is one row of the forward pass: a tree of its questions' prompts and, where an answer has
    several tokens, of the answers' beginnings. The output layer runs only where an answer's token is predicted.

    Returns:
        float32 [N, options] in nats, on the model's device, in the order shown to the model. What the
        answers have in common is left out, since it adds the same to all.
    """
    trees, paths = _rows(batch, alone=_reads_alone(model, batch.trees))
    places: dict[tuple[int, int], int] = {}  # (row, node) → row of the gathered hidden states
    steps: list[tuple[int, int, int]] = []  # (answer's slot, gathered row, token predicted there)
    answers = [answer for question in batch.questions for answer in question.answers]
    for slot, (answer, (row, path)) in enumerate(zip(answers, paths, strict=True)):
        for node, token in zip(path[-len(answer) :], answer, strict=True):
            steps.append((slot, places.setdefault((row, node), len(places)), token))
    width = max(len(tree.tokens) for tree in batch.trees)
    hidden = hidden_states(model, trees, list(places), width * len(batch.trees))  # [P, H]
    slots, sources, targets = torch.tensor(steps, device=hidden.device).T
    log_probabilities = _log_probabilities(output_head(model), hidden, sources, targets)  # [S]
    total = torch.zeros(len(answers), dtype=torch.float32, device=hidden.device)
    return total.index_add_(0, slots, log_probabilities).view(len(batch.questions), -1)


def _rows(batch: QuestionBatch, alone: bool) -> tuple[Sequence[TokenTree], list[tuple[int, list[int]]]]:
    """The rows of a forward pass, and for each answer of each question its row and its nodes there.

    Args:
        alone: give each sequence a row of its own, in which nothing branches.
    """
    if not alone:
        return batch.trees, [(row, path) for row, tree in enumerate(batch.trees) for path in tree.paths]
    sequences = [tuple(sequence) for question in batch.questions for sequence in question.sequences()]
    ordered = sorted(set(sequences), key=len, reverse=True)
    trees = [token_tree([sequence]) for sequence in ordered]
    rows = {sequence: row for row, sequence in enumerate(ordered)}
    return trees, [(rows[sequence], trees[rows[sequence]].paths[0]) for sequence in sequences]


def _reads_alone(model: Any, trees: Sequence[TokenTree]) -> bool:
    """Whether these trees must not branch: the model cannot compute that, or it would lose a window's edge by it."""
    if not any(tree.branches for tree in trees):
        return False
    if getattr(causal_lm(model), READ_ALONE, False):
        return True
    if fast_decoder(model) is not None:
        return False
    window = shortest_window(causal_lm(model).config)
    return window is not None and window <= max(max(tree.depths) for tree in trees)


def shortest_window(config: Any) -> int | None:
    """The least number of tokens that a layer may look back, or that its attention is cut into; None without.

    Found by the settings' names, since transformers' own mask for a tree of tokens replaces the one with the window.
    """
    settings = config.get_text_config().to_dict()
    sizes = (value for name, value in settings.items() if "window" in name or "chunk" in name)
    return min((size for size in sizes if type(size) is int and size > 0), default=None)


def hidden_states(
    model: Any, trees: Sequence[TokenTree], places: Sequence[tuple[int, int]], batch_tokens: int | None = None
) -> Tensor:
    """The decoder's last hidden states [P, H] at some (tree, node); the output layer is left to these few.

    The fast path takes the trees end to end; transformers' own takes them as padded rows, as many at once as fit
    into `batch_tokens`.
    """
    device = device_of(model)
    decoder = fast_decoder(model)
    found: list[Tensor] = []
    order: list[int] = []
    for part in _parts(trees, batch_tokens):
        there = [place for place, (row, _) in enumerate(places) if row in part]
        order += there
        rows, nodes = (
            [places[place][0] - part.start for place in there],
            [places[place][1] for place in there],
        )
        if decoder is not None:
            packed = pack_trees(trees[part.start : part.stop])
            wanted = torch.tensor([packed.offsets[row] + node for row, node in zip(rows, nodes, strict=True)])
            found.append(last_hidden(decoder, packed, wanted.to(device)))
            continue
        input_ids, position_ids, mask = pad_trees(trees[part.start : part.stop])
        hidden = own_hidden(
            causal_lm(model),
            input_ids=input_ids.to(device),
            position_ids=position_ids.to(device),
            attention_mask=None if mask is None else mask.to(device),
        )
        found.append(hidden[torch.tensor(rows, device=device), torch.tensor(nodes, device=device)])
    return torch.cat(found)[torch.tensor(order).argsort().to(device)]


def _parts(trees: Sequence[TokenTree], batch_tokens: int | None) -> Iterator[range]:
    """Trees in runs whose padded rows hold at most so many tokens, one tree at least."""
    start, width = 0, 0
    for end, tree in enumerate(trees):
        wider = max(width, len(tree.tokens))
        if batch_tokens is not None and end > start and wider * (end + 1 - start) > batch_tokens:
            yield range(start, end)
            start, wider = end, len(tree.tokens)
        width = wider
    yield range(start, len(trees))


def _log_probabilities(head: OutputHead, hidden: Tensor, sources: Tensor, targets: Tensor) -> Tensor:
    """log p(targets[s]) after hidden[sources[s]], in float32 throughout.

    Args:
        hidden: [P, H], any float dtype.
        sources: [S] int64, rows of `hidden`.
        targets: [S] int64, token ids.

    Returns:
        float32 [S] in nats.
    """
    slices = head.logits(hidden)
    normaliser = torch.stack([part.logsumexp(-1) for part in slices]).logsumexp(0)  # [P]
    return torch.cat(slices, dim=-1)[sources, targets] - normaliser[sources]


def _comparable(shown: Sequence[float]) -> bool:
    """Whether one of some log-probabilities can be the largest."""
    return not any(map(math.isnan, shown)) and math.isfinite(max(shown))


def _chosen(question: EncodedQuestion, shown: Sequence[float]) -> Prediction:
    """The likeliest answer, brought back from the shown order of the options to the input's."""
    count = len(shown)
    turned = tuple(shown[(option - question.rotation) % count] for option in range(count))
    return Prediction(
        question.row,
        question.id,
        choose(turned),
        turned,
        None,
        False,
        question.rotation,
        " ".join(question.labels),
    )
