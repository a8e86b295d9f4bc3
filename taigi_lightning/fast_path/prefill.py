"""One forward pass over trees of tokens laid end to end: no padding, and nothing kept for a backward pass.

It computes what `decoder_layer` does, with what only prediction allows: residuals are added inside 16-bit products,
the last layer goes on with the few wanted tokens alone, and where memory allows the weights stay unpacked.
"""

from __future__ import annotations

from itertools import pairwise
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from taigi_lightning.fast_path.activation_offload import host_budget
from taigi_lightning.fast_path.apply import fast_decoder
from taigi_lightning.fast_path.attention import Scores, has_flash, seen
from taigi_lightning.fast_path.decoder import FastDecoder
from taigi_lightning.fast_path.decoder_layer import DecoderLayer
from taigi_lightning.fast_path.device_memory import allowed_bytes
from taigi_lightning.fast_path.eight_bit_weights import with_updates
from taigi_lightning.fast_path.nf4_linear import ProjectionGroup
from taigi_lightning.kernels.available_memory import lockable_bytes
from taigi_lightning.kernels.elementwise import Dropout, Norm
from taigi_lightning.planning.layer_mix import spread
from taigi_lightning.planning.memory import prefill_bytes, prefill_peak_bytes
from taigi_lightning.planning.placement import place_prediction
from taigi_lightning.tasks.prefix_tree import PackedTrees

NO_DROPOUT = Dropout(0.0, 0)


class _Row(NamedTuple):
    """What every layer needs to know of the row."""

    trees: PackedTrees
    tables: dict[str, tuple[Tensor, Tensor]]  # cos and sin [M, D] of each kind of layer
    runs: list[tuple[slice, slice]]  # the queries and the keys of each run
    longest: tuple[int, int]  # most queries, most keys of a run
    ops: ModuleType


def unpack_what_fits(model: Any, tokens: int) -> int:
    """Unpack a 4-bit model's layers for good, as many as leave headroom on the GPU for rows of some tokens.

    Each then spares every later forward pass its unpacking: in the 13B shape 0.6 GiB against 0.7 ms. Where packed
    weights wait on the host, as many come back as there is headroom for, and none is unpacked.

    Args:
        model: after `apply_fast_path`, or any other, which stays as it is.
        tokens: of the longest row to come.

    Returns:
        how many layers were unpacked.
    """
    decoder = fast_decoder(model)
    if decoder is None or not decoder.backbone.norm.weight.is_cuda:
        return 0
    weight = decoder.backbone.norm.weight
    _, unallocated = allowed_bytes(weight.device)
    if decoder.stream.hosts:
        row = prefill_peak_bytes(decoder.shape, tokens, weight.element_size())
        bring_what_fits(decoder, unallocated - row)
        return 0
    layers = layers_that_fit(decoder, unallocated, tokens)
    # To the host and, when Lightning moves the model, back again they would take longer than they save in a thousand
    # questions; where they stay is counted as taken.
    decoder.keep_unpacked(layers, packed_on_host=False, backward=False)
    return layers


def layers_that_fit(decoder: FastDecoder, unallocated: float, tokens: int) -> int:
    """How many layers may be unpacked, those that are now among them, and leave headroom for a row of some tokens.

    Args:
        unallocated: bytes of the device, with the layers as they are now.
    """
    first, element_size = decoder.layers[0], decoder.backbone.norm.weight.element_size()
    a_row = prefill_bytes(first.qkv.in_features, first.down.in_features, tokens, element_size)
    missing = sum(g.missing_bytes(element_size) for layer in decoder.layers for g in layer.groups())
    a_layer = sum(group.unpacked_bytes(element_size, backward=False) for group in first.groups())
    headroom = unallocated + decoder.unpacked * a_layer - missing - a_row
    return min(len(decoder.layers), max(0, int(headroom / a_layer)))


def bring_what_fits(decoder: FastDecoder, headroom: float) -> None:
    """Let as few packed weights wait on the host as leave the device its memory, and the output head if none would.

    Args:
        headroom: bytes of the device beside a row, with the weights where they are now.
    """
    waiting = decoder.stream.host_bytes()
    on_host, head = place_prediction(
        decoder.shape,
        weights_on_host=decoder.weights_on_host,
        headroom=headroom - waiting + decoder.stream.slots_bytes(),
        host=host_budget(True, waiting, lockable_bytes()).in_all,
        head=decoder.tables.movable_head(),
        packed=decoder.packed,
    )
    decoder.keep_on_host(set(spread(len(decoder.layers), on_host)))
    if head:
        decoder.tables.head_to_host()


@torch.no_grad()
def last_hidden(decoder: FastDecoder, trees: PackedTrees, wanted: Tensor) -> Tensor:
    """Last hidden states [P, H] of some tokens of a row, after the final norm.

    Args:
        decoder: a model's, in eval mode.
        trees: on the CPU.
        wanted: int64 [P], which of its tokens, on the model's device.
    """
    groups = (group.eight_bit for layer in decoder.layers for group in layer.groups())
    held = [weights for weights in groups if weights is not None and weights.folded]
    return with_updates(held, lambda: _pass(decoder, trees, wanted))


def _pass(decoder: FastDecoder, trees: PackedTrees, wanted: Tensor) -> Tensor:
    queries, keys = _parts(trees.query_starts), _parts(trees.key_starts)
    longest = max(part.stop - part.start for part in queries), max(part.stop - part.start for part in keys)
    runs = list(zip(queries, keys, strict=True))
    trees = trees.to(wanted.device)
    backbone, last = decoder.backbone, decoder.layers[-1]
    with torch.autocast(wanted.device.type, enabled=False):
        x, delta = backbone.embed_tokens(trees.input_ids), None  # [M, H]
        tables = decoder.rotary_tables(trees.position_ids[None])
        row = _Row(trees, tables, runs, longest, decoder.ops)
        for layer in decoder.layers:
            x, delta = _layer(x, delta, layer, row, wanted if layer is last else None)
        out = torch.empty_like(x, dtype=last.dtype)
        if delta is None:
            decoder.ops.rms_norm(x, decoder.final_norm, out, NO_DROPOUT)
        else:
            decoder.ops.add_rms_norm(x, delta, decoder.final_norm, out, NO_DROPOUT, last.post_norm(1))
    return out


def _parts(starts: Tensor) -> list[slice]:
    return [slice(start, end) for start, end in pairwise(starts.tolist())]


def _layer(
    x: Tensor, delta: Tensor | None, layer: DecoderLayer, row: _Row, wanted: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """y [M, H] from x [M, H], whose memory it takes; with wanted [P], only those tokens' y [P, H].

    Both as one tensor and None, or, where a norm follows the MLP or its product is in 8 bits, as the two terms that are
    yet to be added.
    """
    layer.enter(again=True)
    x, inputs = _normed(x, delta, layer, 0, row.ops)
    attended = _attend(layer.qkv.predict(inputs), layer, row)
    if wanted is not None:
        x, attended = x[wanted], attended[wanted]
    inputs = layer.o_inputs(attended, row.ops, NO_DROPOUT)
    del attended
    x, delta = _project_onto(layer.o, inputs, x, layer.post_norm(0))
    x, inputs = _normed(x, delta, layer, 1, row.ops)
    gate_up = layer.gate_up.predict(inputs)
    inputs = layer.down_inputs(gate_up, row.ops, NO_DROPOUT)
    del gate_up
    return _project_onto(layer.down, inputs, x, layer.post_norm(1))


def _project_onto(
    group: ProjectionGroup, inputs: Tensor, x: Tensor, post: Norm | None
) -> tuple[Tensor, Tensor | None]:
    """The residual stream with a product added to it, or, where a norm comes first or the next one adds, beside it."""
    return x, group.add_product(x, inputs) if post is None else group.product(inputs)


def _normed(
    x: Tensor, delta: Tensor | None, layer: DecoderLayer, half: int, ops: ModuleType
) -> tuple[Tensor, Tensor]:
    """The residual stream, and its norm in a buffer for the projections that follow it."""
    group, norm = (layer.qkv, layer.gate_up)[half], layer.norm(half)
    inputs = group.buffer(x, layer.dtype)
    out = inputs[:, : group.in_features]
    if delta is None:
        ops.rms_norm(x, norm, out, NO_DROPOUT)
    else:
        x, _ = ops.add_rms_norm(x, delta, norm, out, NO_DROPOUT, layer.incoming_norm(half))
    return x, inputs


def _attend(qkv: Tensor, layer: DecoderLayer, row: _Row) -> Tensor:
    """Attention [M, heads * D] of every run over its keys, each query over the keys up to itself."""
    trees, kv_heads, tables = row.trees, layer.kv_heads, row.tables[layer.table]
    every = qkv.view(len(qkv), -1, layer.head_size)  # [M, heads + 2 * kv_heads, D]
    q_and_k, norms = every[:, : layer.heads + kv_heads], layer.head_norms
    if norms is None:
        row.ops.rotate(q_and_k, *tables, q_and_k)
    else:
        row.ops.norm_rotate(q_and_k, layer.heads, norms, *tables, q_and_k)
    q, pairs = every[:, : layer.heads], every[:, layer.heads :]
    if trees.keys is not None:
        pairs = pairs.index_select(0, trees.keys)
    k, v = pairs[:, :kv_heads], pairs[:, kv_heads:]
    scores = layer.scores.reach(row.longest[1])
    if has_flash(q):
        # Where a run has more keys than queries, this kernel lets the last query see the last key.
        starts = trees.query_starts, trees.key_starts
        out, *_ = torch.ops.aten._flash_attention_forward(
            q, k, v, *starts, *row.longest, 0.0, True, False, **scores.flash_options
        )
        return out.flatten(1)  # type: ignore[no-any-return]
    return torch.cat([_attend_run(q[queries], k[keys], v[keys], scores) for queries, keys in row.runs])


def _attend_run(q: Tensor, k: Tensor, v: Tensor, scores: Scores) -> Tensor:
    """Attention [m, heads * D] of one run: q [m, heads, D] over k and v [n, kv_heads, D], n >= m."""
    mask = seen(len(q), len(k), scores.window, q.device)
    q, k, v = (t.transpose(0, 1)[None] for t in (q, k, v))
    out = torch.nn.functional.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, scale=scores.scale, enable_gqa=q.shape[1] != k.shape[1]
    )
    return out[0].transpose(0, 1).flatten(1)
