"""Whether a loaded model computes here what it computes by itself: asked as every run starts, in a second.

Architectures differ in ways that no list can cover: recurrent layers that carry one document's state into the
next, masks that never learn where a document begins, windows, caps. So each run asks the model that it has loaded.
What turns out wrong is switched off (documents in one row, questions on one passage, prompts of one batch) or
refused before any time is spent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from taigi_lightning.errors import InputError
from taigi_lightning.evaluation.answers import READ_ALONE, hidden_states
from taigi_lightning.evaluation.greedy_answers import GENERATE_ALONE, left_padded_logits
from taigi_lightning.fast_path.apply import causal_lm, device_of, forward_hidden
from taigi_lightning.fast_path.cross_entropy import linear_cross_entropy_sum
from taigi_lightning.fast_path.output_head import output_head
from taigi_lightning.fast_path.own_pass import in_eval_mode, own_hidden
from taigi_lightning.tasks.prefix_tree import token_tree

FIRST, SECOND = 19, 23  # tokens of the two documents


ROUGHEST = 0.3  # more than rounding in 16 bits does to hidden states, as a share of their norm


@dataclass(frozen=True)
class Limits:
    """The largest relative differences that rounding explains.

    Attributes:
        same_shape: between results of one shape.
        other_shape: between results of two shapes, whose kernels round differently.
        logits: between a model's own logits and the product of its own hidden states with the head.
    """

    same_shape: float
    other_shape: float
    logits: float

    @classmethod
    def of(cls, hidden: Tensor, head: Tensor) -> Limits:
        """For such hidden states and such a head: some layers give 32 bits of what they computed in 16."""
        wide = all(tensor.dtype in (torch.float32, torch.float64) for tensor in (hidden, head))
        exact = wide and not torch.is_autocast_enabled(hidden.device.type)
        return cls(1e-5, 1e-4, 1e-4) if exact else cls(1e-2, 5e-2, 2e-2)

    @property
    def exact(self) -> bool:
        """Whether everything is in 32 bits."""
        return self.other_shape < 1e-3

    def after(self, noise: float) -> Limits:
        """In 16 bits deep models pass much rounding on: three times what was seen of it is allowed."""
        if self.exact:
            return self
        return replace(self, other_shape=max(self.other_shape, min(3 * noise, 0.5)))


@dataclass(frozen=True)
class Findings:
    """What a model cannot do here, each as a sentence for the user; None where it can."""

    packing: str | None = None
    sharing: str | None = None
    padding: str | None = None

    def __str__(self) -> str:
        return "\n".join(said for said in (self.packing, self.sharing, self.padding) if said)


def self_check(model: Any, *, answers: bool, generating: PreTrainedTokenizerBase | None = None) -> Findings:
    """Ask a loaded model, in the precision of the run; remember in it what questions must be read alone.

    Args:
        model: a causal language model of transformers, or a PEFT model around one, after `apply_fast_path`.
        answers: whether questions will be answered by comparing probabilities.
        generating: the tokenizer, if they will be answered by generating.

    Raises:
        InputError: the model cannot be run, gives numbers that are not finite, sees later tokens, or has another loss
            than the one computed here.
    """
    base = causal_lm(model)
    name = type(base).__name__
    first, changed, second = _documents(base)
    with explained(name), in_eval_mode(model), torch.no_grad():
        alone = _hidden(model, second)
        limits = Limits.of(alone, base.get_output_embeddings().weight)
        if not torch.isfinite(alone).all():
            raise InputError(f"{name} gives numbers that are not finite in {alone.dtype}. {_advice(base)}")
        ahead = _hidden(model, second, first)[:SECOND], _hidden(model, second, changed)[:SECOND]
        roughest = limits.other_shape if limits.exact else ROUGHEST
        if differs(*ahead, limits.same_shape) or differs(ahead[0], alone, roughest):
            raise InputError(
                f"In {name} a token sees those after it, so it cannot learn to predict them. Use a causal model."
            )
        own = _check_loss(base, second, limits)
        if differs(alone, own, roughest):
            raise InputError(
                f"{name} gives other hidden states by itself than as computed here, so training would teach something "
                "else. Use another base, and report this one."
            )
        limits = limits.after(max(difference(ahead[0], alone), difference(alone, own)))
        behind = _hidden(model, first, second)[FIRST:], _hidden(model, changed, second)[FIRST:]
        packing = sharing = padding = None
        if differs(*behind, limits.same_shape) or differs(behind[0], alone, limits.other_shape):
            packing = (
                f"{name} lets a document in a packed row see the one before it: one document a row instead."
            )
        # What one document leaves for the next may be less than 16 bits show: then a question leaves it too.
        leaves = packing is not None and not limits.exact
        if answers and (leaves or _sharing_differs(model, first, second, limits)):
            sharing = f"{name} cannot read a passage once for several questions: each question is read alone."
        base.__dict__[READ_ALONE] = sharing is not None
        if generating is not None and _padding_differs(model, generating, first, second, limits):
            padding = f"{name} takes padding before a prompt for text: each prompt is continued alone."
        base.__dict__[GENERATE_ALONE] = padding is not None
    base.__dict__["findings"] = findings = Findings(packing, sharing, padding)
    return findings


def _advice(base: Any) -> str:
    """What to do about numbers that are not finite: they are in the weights, or too large for 16 bits."""
    faults = (name for name, p in base.named_parameters() if p.is_floating_point() and not p.isfinite().all())
    if (name := next(faults, None)) is not None:
        return f"So are some of {name}: download or write the base again."
    return "Use a GPU that computes in bfloat16, or --trainer.precision 32-true."


def differs(found: Tensor, wanted: Tensor, limit: float) -> bool:
    """Whether hidden states (T, H) differ by more than rounding.

    In 16 bits a quarter of the tokens may: in a mixture of experts, rounding sends some to another expert.
    """
    return not difference(found, wanted, 1.0 if limit < 1e-3 else 0.75) <= limit


def difference(found: Tensor, wanted: Tensor, quantile: float = 0.75) -> float:
    """Of the rows of two matrices: their difference as a share of the second one's norm, at that quantile."""
    found, wanted = found.float(), wanted.float()
    shares = (found - wanted).norm(dim=-1) / wanted.norm(dim=-1).clamp(min=1e-12)
    return float(shares.quantile(quantile))


def _documents(base: Any) -> tuple[list[int], list[int], list[int]]:
    """Two documents of ordinary token ids, and in between another one of the first one's length."""
    vocabulary = len(base.get_input_embeddings().weight)
    low, high = min(100, vocabulary // 4), min(4096, vocabulary)
    drawn = torch.randint(
        low, high, (2 * FIRST + SECOND,), generator=torch.Generator().manual_seed(0)
    ).tolist()
    return drawn[:FIRST], drawn[FIRST : 2 * FIRST], drawn[2 * FIRST :]


def _hidden(model: Any, *documents: Sequence[int]) -> Tensor:
    """Last hidden states (T, H) of a row of documents."""
    device = device_of(model)
    ids = torch.tensor([token for document in documents for token in document], device=device)
    places = torch.cat([torch.arange(len(document)) for document in documents]).to(device)
    return forward_hidden(model, ids[None], places[None])[0]


def _check_loss(base: Any, document: Sequence[int], limits: Limits) -> Tensor:
    """The model's own hidden states (T, H) of a document; of them our head and loss must make what its logits do."""
    ids = torch.tensor([document], device=device_of(base))
    hidden, head = own_hidden(base, input_ids=ids), output_head(base)
    logits = base(input_ids=ids, use_cache=False).logits[0].float()
    ours = float(linear_cross_entropy_sum(hidden, head, ids)) / (len(document) - 1)
    own = float(torch.nn.functional.cross_entropy(logits[:-1], ids[0, 1:]))
    apart = difference(torch.cat(head.logits(hidden[0]), dim=-1), logits, quantile=1.0)
    if not (abs(ours - own) <= limits.logits * max(1.0, abs(own)) and apart <= limits.logits):
        raise InputError(
            f"The loss of {type(base).__name__} is {own:.4f} by its own logits and {ours:.4f} as computed here (the "
            f"logits differ by {apart:.1%}), so training would teach something else. Use another base, and report this "
            "one."
        )
    return hidden[0]


def _sharing_differs(model: Any, passage: list[int], rest: list[int], limits: Limits) -> bool:
    """Whether two questions in one row, on a passage computed once, are read otherwise than each in its own row."""
    sequences = [passage + rest[:10], passage + rest[10:], passage + rest[:10] + passage[:2]]
    tree = token_tree(sequences)
    try:
        together = hidden_states(model, [tree], [(0, path[-1]) for path in tree.paths])
    except Exception as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        return True
    trees = [token_tree([sequence]) for sequence in sequences]
    alone = hidden_states(model, trees, [(row, len(sequence) - 1) for row, sequence in enumerate(sequences)])
    return differs(together, alone, limits.other_shape)


def _padding_differs(
    model: Any, tokenizer: PreTrainedTokenizerBase, short: list[int], long: list[int], limits: Limits
) -> bool:
    """Whether a prompt padded on the left to another's length continues otherwise than alone."""
    try:
        padded = left_padded_logits(model, tokenizer, [short, long], tokens=2)
    except Exception as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        return True
    return differs(padded, left_padded_logits(model, tokenizer, [short], tokens=2), limits.other_shape)


@contextmanager
def explained(name: str) -> Iterator[None]:
    """Say in one sentence that a model cannot be run at all; a GPU's memory is another matter."""
    try:
        yield
    except (InputError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise InputError(
            f"{name} cannot be run here on text alone ({type(error).__name__}: {reason[:200]}). Use another base, or "
            "--model.quantization none if its layers cannot be computed in 4 bits."
        ) from error
