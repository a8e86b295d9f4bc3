"""An earlier stage's LoRA update kept frozen beside the 4-bit weights that it was trained against.

A second 4-bit quantisation of the merged weights would round the update away in part, and with it what the
adapter had learnt to repair of the first quantisation. So the weights are not quantised a second time: a stage
that starts from a merged model in 4 bits computes dequantised NF4 weights + B A, exactly what was trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from taigi_lightning.errors import InputError
from taigi_lightning.model.lora_deltas import read_updates
from taigi_lightning.model.merge_places import text_names
from taigi_lightning.model.token_rows import load_rows


class FrozenUpdate(nn.Module):
    """x A^T B^T, with A [r, in] and the scaled B [out, r]: parameters that never train.

    No buffers, since DDP would send those to every process again in each forward pass.
    """

    def __init__(self, a: Tensor, b: Tensor) -> None:
        super().__init__()
        self.a = nn.Parameter(a, requires_grad=False)
        self.b = nn.Parameter(b, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out], in the dtype of A and B."""
        hidden = nn.functional.linear(x.to(self.a.dtype), self.a)
        return nn.functional.linear(hidden, self.b)


def add_frozen_updates(model: nn.Module, adapters: Sequence[Path], dtype: torch.dtype) -> None:
    """Let `model` compute what it did with each of the adapters on it, in place; nothing of them trains.

    Several updates of one weight become one of their summed rank. A Linear with an update has it as
    `frozen_update`, which the fast path reads; everything else calls the Linear, whose forward hook adds it.

    Args:
        model: a transformers model whose parameters are named as in the adapters' base.
        adapters: folders of LoRA adapters; rows of tokens that one brings are written into the embeddings.
        dtype: what is computed in; the float32 factors are rounded to it, as in every forward pass of training.

    Raises:
        InputError: an adapter is no plain LoRA adapter, or changes a weight that the model does not have.
    """
    parts: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for adapter in adapters:
        load_rows(model, adapter, trainable=None)
        for name, update in read_updates(adapter).items():
            left, right = update.factors("cpu")  # [rows, r], [r, columns]
            a, b = (left.T, right.T) if update.transposed else (right, left)
            parts.setdefault(name.removesuffix(".weight"), []).append((a, b))
    known = {name for name, _ in model.named_modules()}
    for name, inner in text_names(list(parts), known).items():
        factors, linear = parts[name], _find_linear(model, inner, adapters)
        a = torch.cat([a for a, _ in factors])
        b = torch.cat([b for _, b in factors], dim=1)
        if (b.shape[0], a.shape[1]) != (linear.out_features, linear.in_features):
            raise InputError(
                f"{adapters[-1]} changes {name} as [{b.shape[0]}, {a.shape[1]}], but the model holds it as "
                f"[{linear.out_features}, {linear.in_features}]. Give the base that the adapter was trained on."
            )
        linear.frozen_update = FrozenUpdate(a.to(dtype), b.to(dtype)).to(_device(linear))
        linear.register_forward_hook(add_update)


def _device(linear: Any) -> torch.device:
    """Where a Linear computes: a packed weight may wait on the host, its scales do not."""
    state = getattr(linear.weight, "quant_state", None)
    device: torch.device = linear.weight.device if state is None else state.absmax.device
    return device


def _find_linear(model: nn.Module, name: str, adapters: Sequence[Path]) -> Any:
    try:
        module: Any = model.get_submodule(name)
    except AttributeError as error:
        raise InputError(
            f"{adapters[-1]} changes {name}, which {type(model).__name__} does not have. Give the base that "
            "the adapter was trained on."
        ) from error
    if not isinstance(module, nn.Linear):
        raise InputError(
            f"{adapters[-1]} changes {name}, which is no Linear but {type(module).__name__}: its update "
            "cannot stay beside it. Set --model.hand_off merge."
        )
    return module


def add_update(linear: Any, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """Forward hook of a Linear with a frozen update."""
    update: Tensor = linear.frozen_update(arguments[0])
    return output + update.to(output.dtype)
