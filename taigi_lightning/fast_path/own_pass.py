"""Transformers' own pass through a causal language model, up to what its output layer multiplies."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def own_decoder(base: Any) -> Any:
    """The part of a transformers causal language model before its output layer."""
    decoder = base.get_decoder()
    if decoder is not base and decoder is not base.get_output_embeddings():
        return decoder
    # Some know of none, and ModernBERT's decoder calls its output layer so.
    return base.base_model if base.base_model is not base else getattr(base, "model", base)


def own_hidden(base: Any, **inputs: Tensor | None) -> Tensor:
    """Hidden states (B, T, H) before the output layer by transformers' own pass, given what its decoder knows of.

    Some decoders take no positions; the run's self-check finds out what that means.
    """
    decoder = own_decoder(base)
    known = inspect.signature(decoder.forward).parameters
    out = decoder(**{name: value for name, value in inputs.items() if name in known}, use_cache=False)
    hidden: Tensor = out.last_hidden_state if hasattr(out, "last_hidden_state") else out[0]
    between = between_decoder_and_head(base)
    return hidden if between is None else between(hidden)


def between_decoder_and_head(base: Any) -> Callable[[Tensor], Tensor] | None:
    """What a model puts its last hidden states through before the output layer (BERT's `transform`); found once."""
    if "between" not in base.__dict__:
        base.__dict__["between"] = _find_between(base)
    found: Callable[[Tensor], Tensor] | None = base.__dict__["between"]
    return found


@torch.no_grad()
def _find_between(base: Any) -> nn.Module | None:
    """The outermost module beside decoder and output layer from whose input, the hidden states, that layer's comes."""
    decoder, head = own_decoder(base), base.get_output_embeddings()
    inside = {*decoder.modules(), head}
    around = [module for module in base.modules() if inside & set(module.modules())]
    beside = [module for module in base.modules() if module not in inside and module not in around]
    if not beside or head is None:
        return None
    seen: dict[nn.Module, tuple[Any, Any]] = {}

    def note(module: nn.Module, inputs: Any, output: Any) -> None:
        seen[module] = (inputs[0] if inputs else None, output)

    handles = [module.register_forward_hook(note) for module in (decoder, head, *beside)]
    try:
        device = base.get_input_embeddings().weight.device
        base(input_ids=torch.arange(4, 8, device=device)[None], use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    if decoder not in seen or head not in seen:
        return None
    out, wanted = seen[decoder][1], seen[head][0]
    hidden = out.last_hidden_state if hasattr(out, "last_hidden_state") else out[0]
    if _same(hidden, wanted):
        return None
    return next(
        (m for m in beside if m in seen and _same(seen[m][0], hidden) and _same(seen[m][1], wanted)), None
    )


def _same(one: Any, other: Any) -> bool:
    return isinstance(one, Tensor) and isinstance(other, Tensor) and torch.equal(one, other)


@contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[None]:
    """A model in eval mode, for a question to it, and afterwards each of its modules as it was."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
