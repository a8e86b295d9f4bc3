"""Answering four-choice questions: by comparing four probabilities, or by generating text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedTokenizerBase

from taigi_lightning.data.collate import pad_left
from taigi_lightning.evaluation.predictions import Prediction, choose
from taigi_lightning.fast_path.apply import causal_lm, fast_decoder
from taigi_lightning.fast_path.prefill import last_hidden
from taigi_lightning.tasks.prefix_tree import TokenTree, pack_trees, pad_trees
from taigi_lightning.tasks.question_batches import EncodedQuestion, QuestionBatch

Strategy = Literal["choice", "generate"]

MAX_NEW_TOKENS = 5
VOCABULARY_CHUNK = 8192


def predict_batch(
    model: Any, tokenizer: PreTrainedTokenizerBase, batch: QuestionBatch, strategy: Strategy
) -> list[Prediction]:
    """Answer every question of a batch, in its order.

    Args:
        model: a causal language model of transformers, or a PEFT model around one, in eval mode.
        tokenizer: the model's own.
        batch: from `PredictDataModule`.
        strategy: "choice" compares the four answers' log-probabilities, "generate" decodes greedily.
    """
    if strategy == "choice":
        rows = answer_log_probabilities(model, batch).tolist()
        return [_chosen(question, row) for question, row in zip(batch.questions, rows, strict=True)]
    tokens = generate_tokens(model, tokenizer, [question.prompt for question in batch.questions])
    texts = [tokenizer.decode(new, skip_special_tokens=True) for new in tokens]
    return [_extracted(question, text) for question, text in zip(batch.questions, texts, strict=True)]


def choice_accuracy_batch(model: Any, batch: QuestionBatch) -> tuple[int, int]:
    """How many questions of a batch are answered rightly by comparing probabilities, and how many there are.

    Args:
        model: as for `predict_batch`.
        batch: questions whose `answer` is known.
    """
    rows = answer_log_probabilities(model, batch).tolist()
    pairs = list(zip(batch.questions, rows, strict=True))
    return sum(_chosen(question, row).answer == question.answer for question, row in pairs), len(pairs)


# ---- choice ---------------------------------------------------------------------------------------


@torch.no_grad()
def answer_log_probabilities(model: Any, batch: QuestionBatch) -> Tensor:
    """Log-probability of each whole answer after its prompt, from one forward pass.

    Each group is one row of the forward pass: a tree of its questions' prompts and, where an answer has
    several tokens, of the answers' beginnings. lm_head runs only where an answer's token is predicted.

    Returns:
        float32 [N, 4] in nats, on the model's device, in the order shown to the model. What the four
        answers have in common is left out, since it adds the same to all.
    """
    places: dict[tuple[int, int], int] = {}  # (row, node) → row of the gathered hidden states
    steps: list[tuple[int, int, int]] = []  # (answer's slot, gathered row, token predicted there)
    slot = 0
    for row, (tree, group) in enumerate(zip(batch.trees, batch.groups, strict=True)):
        paths = iter(tree.paths)
        for question in group:
            for answer in question.answers:
                nodes = next(paths)[-len(answer) :]
                for node, token in zip(nodes, answer, strict=True):
                    steps.append((slot, places.setdefault((row, node), len(places)), token))
                slot += 1
    hidden = _hidden_states(model, batch.trees, list(places))  # [P, H]
    slots, sources, targets = torch.tensor(steps, device=hidden.device).T
    log_probabilities = _log_probabilities(model, hidden, sources, targets)  # [S]
    total = torch.zeros(slot, dtype=torch.float32, device=hidden.device)
    return total.index_add_(0, slots, log_probabilities).view(-1, 4)


def _hidden_states(model: Any, trees: Sequence[TokenTree], places: Sequence[tuple[int, int]]) -> Tensor:
    """The decoder's last hidden states [P, H] at some (tree, node); lm_head is left to these few.

    The fast path takes the trees end to end; transformers' own takes them as padded rows.
    """
    device = model.get_output_embeddings().weight.device
    decoder = fast_decoder(model)
    if decoder is not None:
        packed = pack_trees(trees)
        wanted = torch.tensor([packed.offsets[tree] + node for tree, node in places])
        return last_hidden(decoder, packed, wanted.to(device))
    input_ids, position_ids, mask = pad_trees(trees)
    output = causal_lm(model).get_decoder()(
        input_ids=input_ids.to(device),
        position_ids=position_ids.to(device),
        attention_mask=None if mask is None else mask.to(device),
        use_cache=False,
    )
    at_row, at_node = torch.tensor(places, device=device).T
    hidden: Tensor = output.last_hidden_state[at_row, at_node]
    return hidden


def _log_probabilities(model: Any, hidden: Tensor, sources: Tensor, targets: Tensor) -> Tensor:
    """log p(targets[s]) after hidden[sources[s]], in float32.

    In 16 bits a logit of 10 moves in steps of 0.06 and answers would often tie, so the product itself is
    done in float32, a slice of the vocabulary at a time.

    Args:
        hidden: [P, H], any float dtype.
        sources: [S] int64, rows of `hidden`.
        targets: [S] int64, token ids.

    Returns:
        float32 [S] in nats.
    """
    head = model.get_output_embeddings()
    softcap = getattr(model.config, "final_logit_softcapping", None)
    with torch.autocast(hidden.device.type, enabled=False):
        if type(head) is nn.Linear and head.weight.is_floating_point() and head.bias is None:
            x = hidden.float()
            slices = [x @ part.float().T for part in head.weight.split(VOCABULARY_CHUNK)]
        else:  # quantised or adapted: only the layer itself knows its product
            slices = [head(hidden.to(model.dtype)).float()]
        if softcap is not None:
            slices = [softcap * torch.tanh(part / softcap) for part in slices]
        normaliser = torch.stack([part.logsumexp(-1) for part in slices]).logsumexp(0)  # [P]
        logits = torch.cat(slices, dim=-1)[sources, targets]
        return logits - normaliser[sources]


def _chosen(question: EncodedQuestion, shown: Sequence[float]) -> Prediction:
    """The likeliest answer, brought back from the shown order of the options to the input's."""
    turned = tuple(shown[(option - question.rotation) % 4] for option in range(4))
    one, two, three, four = turned
    return Prediction(
        question.row, question.id, choose(turned), (one, two, three, four), None, False, question.rotation
    )


# ---- generate -------------------------------------------------------------------------------------


def extract_answer(text: str) -> int | None:
    """The number a generated text begins with, if it is one of the four.

    >>> extract_answer("3</s>"), extract_answer(" 2"), extract_answer("答案：1"), extract_answer("５")
    (3, 2, None, None)
    """
    match = re.match(r"^[1-4]", text.lstrip())
    return int(match.group()) if match else None


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
    device = model.get_output_embeddings().weight.device
    padding: int = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    batch = pad_left(prompts, padding)  # generate finds the positions from the mask by itself
    settings = GenerationConfig(
        do_sample=False,
        max_new_tokens=max_new_tokens,
        pad_token_id=padding,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
        use_cache=True,  # training switches it off in the model's config
    )
    output = model.generate(
        input_ids=batch["input_ids"].to(device),
        attention_mask=batch["attention_mask"].to(device),
        generation_config=settings,
    )
    new: list[list[int]] = output[:, batch["input_ids"].shape[1] :].tolist()
    return new


def _extracted(question: EncodedQuestion, text: str) -> Prediction:
    """The answer a text begins with, or 1, brought back to the input's numbering."""
    shown = extract_answer(text)
    answer = ((shown or 1) - 1 + question.rotation) % 4 + 1
    return Prediction(question.row, question.id, answer, None, text, shown is None, question.rotation)
