"""Rows of an embedding and of an output layer that train, or stay as an earlier stage trained them.

The frozen weights hold the rows' newest values, so that whatever reads them, transformers' own code or the fast path,
computes with these; what trains is a float32 copy of the rows alone, whose gradient is that of those rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from taigi_lightning.errors import InputError
from taigi_lightning.model.lora_deltas import DELTA, PREFIX, WEIGHTS
from taigi_lightning.model.merge_places import find_places, text_names
from taigi_lightning.model.merge_tokens import mean_row, read_rows
from taigi_lightning.model.new_tokens import Rows
from taigi_lightning.model.text_model import skeleton


class TokenRows(nn.Module):
    """Rows float32 [n, H] of a weight [V, H] by their tokens' ids; `scale` is what the embedding multiplies them by."""

    def __init__(self, ids: Sequence[int], rows: Tensor, size: int, scale: float = 1.0) -> None:
        super().__init__()
        self.rows = nn.Parameter(rows.detach().float().clone())
        self.scale = scale
        # No buffers, since DDP would send those to every process again in each forward pass.
        self.ids = torch.tensor(list(ids), device=rows.device)
        # [V]: which row a token has, or none.
        self.places = torch.full((size,), len(self.ids), device=rows.device)
        self.places[self.ids] = torch.arange(len(self.ids), device=rows.device)

    @torch.no_grad()
    def write_into(self, weight: Tensor) -> None:
        """Let a weight [V, H] hold the rows' values, rounded to its dtype."""
        weight.data.index_copy_(0, self.ids.to(weight.device), self.rows.data.to(weight))

    def gradient(self, grad: Tensor, input_ids: Tensor) -> Tensor:
        """Gradient float32 [n, H] of the rows from that of an embedding's output (..., H)."""
        self.places = self.places.to(input_ids.device)
        count = len(self.ids)
        flat = grad.reshape(-1, grad.shape[-1]).float()
        found = torch.ops.aten.embedding_dense_backward(
            flat, self.places[input_ids.reshape(-1)], count + 1, count, False
        )
        return found[:count] * self.scale  # type: ignore[no-any-return]


class _Embedded(torch.autograd.Function):
    """An embedding's output as it is, whose gradient also reaches the rows."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, input_ids: Tensor, parameter: Tensor, rows: TokenRows) -> Tensor:
        ctx.save_for_backward(input_ids)
        ctx.rows = rows
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (input_ids,) = ctx.saved_tensors
        return grad, None, ctx.rows.gradient(grad, input_ids), None


def check_tables(base: str, size: int) -> None:
    """Refuse a base rows of whose embedding cannot train, or could not be merged, before its weights load.

    Args:
        base: a folder or Hub name.
        size: tokens that it is to have rows for.

    Raises:
        InputError: its embedding or output layer is no plain table, or its files hold them otherwise.
    """
    model = skeleton(base)
    names = {module: name for name, module in model.named_modules()}
    tables = {f"{names[module]}.weight": tuple(module.weight.shape) for module in _tables(model)}
    find_places(base, tables)
    _check_growth(model, size)


def _check_growth(model: Any, size: int) -> None:
    """Refuse to give a head with a bias more tokens, which would have none."""
    head = model.get_output_embeddings()
    if size > head.weight.shape[0] and head.bias is not None:
        raise InputError(
            f"The output layer of {type(model).__name__} has a bias, which tokens that are added would lack. Name "
            "tokens that its tokenizer has under model.new_tokens, or use another base."
        )


def grow(model: Any, size: int) -> None:
    """Give a model embeddings for `size` tokens, in place; rows beyond its own begin as the mean of all its rows.

    Raises:
        InputError: its output layer has a bias, or transformers cannot resize it.
    """
    tables, name = _tables(model), type(model).__name__
    before = tables[0].weight.shape[0]
    if size <= before:
        return
    _check_growth(model, size)
    fresh = [mean_row(module.weight.data) for module in tables]
    try:
        model.resize_token_embeddings(size, mean_resizing=False)
    except (AttributeError, NotImplementedError, RuntimeError, ValueError, TypeError) as error:
        raise InputError(f"transformers cannot add tokens to {name}: {error} Use another base.") from error
    for module, row in zip(_tables(model), fresh, strict=True):
        if module.weight.shape[0] != size:
            raise InputError(f"{name} has another table of tokens than its embedding. Use another base.")
        module.weight.data[before:] = row
        module.requires_grad_(False)  # the new table alone: LoRA is in the model already, and trains


def attach_rows(model: Any, rows: Rows) -> None:
    """Let rows of tokens train, each beginning as the mean of others.

    Args:
        model: a causal language model of transformers; PEFT is around it already.
        rows: as `extended_tokenizer` gives them.

    Raises:
        InputError: the embedding is no plain table, or cannot be made longer.
    """
    grow(model, max(rows) + 1)
    means = []
    for module in _tables(model):
        weight = module.weight.data.float()
        means.append(torch.stack([weight[torch.tensor(pieces)].mean(0) for pieces in rows.values()]))
    _hook(model, list(rows), means)


def load_rows(model: Any, adapter: Path, *, trainable: bool | None) -> None:
    """Give a model the rows of tokens that a saved adapter brings; without such, do nothing.

    Args:
        trainable: whether they train; None: they are written into the weights for good.

    Raises:
        InputError: the rows are not those of this model's tables.
    """
    found = {name.removesuffix(".weight"): update for name, update in read_rows(adapter).items()}
    if not found:
        return
    tensors = load_file(adapter / WEIGHTS)
    inner = text_names([*_lora_modules(tensors), *found], {name for name, _ in model.named_modules()})
    by_name = {inner[name]: (update.ids, tensors[f"{PREFIX}{name}{DELTA}"]) for name, update in found.items()}
    grow(model, max(update.needed for update in found.values()))
    names = {module: name for name, module in model.named_modules()}
    tables = [names[module] for module in _tables(model)]
    width = model.get_input_embeddings().weight.shape[1]
    fits = all(rows.shape == (len(ids), width) for ids, rows in by_name.values())
    if set(tables) != set(by_name) or not fits or len({ids for ids, _ in by_name.values()}) > 1:
        raise InputError(
            f"{adapter} brings rows of tokens for {', '.join(by_name)}; {type(model).__name__} wants them for "
            f"{' and '.join(tables)}, {width} wide. Give the base that the adapter was trained on."
        )
    ids = by_name[tables[0]][0]
    values = [by_name[name][1] for name in tables]
    if trainable is not None:
        _hook(model, ids, values, trainable=trainable)
        return
    for module, rows in zip(_tables(model), values, strict=True):
        _own_memory(module)
        TokenRows(ids, rows.to(module.weight.device), len(module.weight)).write_into(module.weight)


def rows_to_save(model: Any) -> tuple[dict[str, list[int]], dict[str, Tensor]]:
    """What an adapter's settings and its tensors say of the rows of a PEFT model's tokens; mostly nothing."""
    base = model.get_base_model()
    indices, tensors = {}, {}
    names = {module: name for name, module in base.named_modules()}
    for module in _tables(base):
        rows: TokenRows | None = getattr(module, "token_rows", None)
        if rows is not None:
            indices[names[module].rpartition(".")[2]] = rows.ids.tolist()
            tensors[f"{PREFIX}{names[module]}{DELTA}"] = rows.rows.detach().cpu().contiguous()
    return indices, tensors


def _lora_modules(tensors: Mapping[str, Tensor]) -> list[str]:
    ending = ".lora_A.weight"
    return [name.removeprefix(PREFIX).removesuffix(ending) for name in tensors if name.endswith(ending)]


def _tables(model: Any) -> list[Any]:
    """The embedding, and the output layer where it has a weight of its own.

    Raises:
        InputError: they are not plain tables of the same tokens.
    """
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if not isinstance(embedding, nn.Embedding) or not isinstance(head, nn.Linear):
        raise InputError(
            f"{type(model).__name__} has no plain embedding and output layer, rows of which could train. Leave "
            "model.new_tokens out, or use another base."
        )
    return [embedding] if head.weight is embedding.weight else [embedding, head]


def _scale(embedding: Any) -> float:
    """What an embedding multiplies its rows by.

    Raises:
        InputError: it does more with them.
    """
    scale = float(getattr(embedding, "embed_scale", 1.0))
    with torch.no_grad():
        ids = torch.arange(4, device=embedding.weight.device)
        found, wanted = embedding(ids).float(), embedding.weight[ids].float() * scale
    if not torch.allclose(found, wanted, rtol=1e-2, atol=1e-6):
        raise InputError(
            f"{type(embedding).__name__} does more with a token's row than give it, so rows of it cannot train here. "
            "Leave model.new_tokens out, or use another base."
        )
    return scale


def _hook(model: Any, ids: Sequence[int], values: Sequence[Tensor], *, trainable: bool = True) -> None:
    """Put rows beside a model's tables, into which they are written before every pass."""
    tables = _tables(model)
    embedding, head = tables[0], model.get_output_embeddings()
    scale = _scale(embedding)
    for module, rows in zip(tables, values, strict=True):
        _own_memory(module)
        made = TokenRows(ids, rows.to(module.weight.device), len(module.weight), scale)
        module.token_rows = made.requires_grad_(trainable)
        made.write_into(module.weight)
    if len(tables) == 1:  # one weight; not registered twice, so that its rows are saved once
        object.__setattr__(head, "token_rows", embedding.token_rows)

    def before(_module: nn.Module, _inputs: Any) -> None:
        for module in tables:
            module.token_rows.write_into(module.weight)

    def after(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        rows = module.token_rows
        if not torch.is_grad_enabled() or not rows.rows.requires_grad:
            return output
        traced: Tensor = _Embedded.apply(output, inputs[0], rows.rows, rows)  # type: ignore[no-untyped-call]
        return traced

    embedding.register_forward_pre_hook(before)
    embedding.register_forward_hook(after)


def _own_memory(module: Any) -> None:
    """Never write into what a file or another process's memory may lie under."""
    module.weight.data = module.weight.data.clone()
