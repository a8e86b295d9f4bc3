"""One forward pass over trees of tokens laid end to end: no padding, and nothing kept for a backward pass.

It computes what `decoder_layer` does, with what only prediction allows: residuals are added inside the products,
the last layer goes on with the few wanted tokens alone, and where memory allows the weights stay unpacked.
"""

from __future__ import annotations

from itertools import pairwise
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from taigi_lightning.fast_path.apply import fast_decoder
from taigi_lightning.fast_path.attention import has_flash
from taigi_lightning.fast_path.decoder import FastDecoder
from taigi_lightning.fast_path.decoder_layer import DecoderLayer
from taigi_lightning.kernels.elementwise import Dropout
from taigi_lightning.planning.memory import prefill_room
from taigi_lightning.tasks.prefix_tree import PackedTrees

NO_DROPOUT = Dropout(0.0, 0)


class _Row(NamedTuple):
    """What every layer needs to know of the row."""

    trees: PackedTrees
    cos: Tensor  # [M, D], as is sin
    sin: Tensor
    runs: list[tuple[slice, slice]]  # the queries and the keys of each run
    longest: tuple[int, int]  # most queries, most keys of a run
    ops: ModuleType


def unpack_what_fits(model: Any, tokens: int) -> int:
    """Unpack a 4-bit model's layers for good, as many as leave room on the GPU for rows of some tokens.

    Each then spares every later forward pass its unpacking: in the 13B shape 0.6 GiB against 0.7 ms.

    Args:
        model: after `apply_fast_path`, or any other, which stays as it is.
        tokens: of the longest row to come.

    Returns:
        how many layers were unpacked.
    """
    decoder = fast_decoder(model)
    if decoder is None or not decoder.backbone.norm.weight.is_cuda:
        return 0
    weight, first = decoder.backbone.norm.weight, decoder.layers[0]
    free, total = torch.cuda.mem_get_info(weight.device)
    used, held = torch.cuda.memory_allocated(weight.device), torch.cuda.memory_reserved(weight.device)
    limit = torch.cuda.get_per_process_memory_fraction(weight.device) * total
    a_row = prefill_room(first.qkv.in_features, first.down.in_features, tokens, weight.element_size())
    room = min(free + held - used, limit - used) - a_row
    a_layer = sum(group.out_features * group.width for group in first.groups()) * weight.element_size()
    layers = min(len(decoder.layers), max(0, int(room / a_layer)))
    # To the host and, when Lightning moves the model, back again they would take longer than they save in a thousand
    # questions; the room they stay in is counted as taken.
    decoder.keep_unpacked(layers, packed_on_host=False)
    return layers


@torch.no_grad()
def last_hidden(decoder: FastDecoder, trees: PackedTrees, wanted: Tensor) -> Tensor:
    """Last hidden states [P, H] of some tokens of a row, after the final norm.

    Args:
        decoder: a model's, in eval mode.
        trees: on the CPU.
        wanted: int64 [P], which of its tokens, on the model's device.
    """
    queries, keys = _parts(trees.query_starts), _parts(trees.key_starts)
    longest = max(part.stop - part.start for part in queries), max(part.stop - part.start for part in keys)
    runs = list(zip(queries, keys, strict=True))
    trees = trees.to(wanted.device)
    backbone = decoder.backbone
    with torch.autocast(wanted.device.type, enabled=False):
        x = backbone.embed_tokens(trees.input_ids)  # [M, H]
        cos, sin = backbone.rotary_emb(x[None], trees.position_ids[None])
        row = _Row(trees, cos[0].contiguous(), sin[0].contiguous(), runs, longest, decoder.ops)
        for layer in decoder.layers[:-1]:
            x = _layer(x, layer, row)
        x = _layer(x, decoder.layers[-1], row, wanted)
        out = torch.empty_like(x)
        decoder.ops.rms_norm(x, backbone.norm.weight, backbone.norm.variance_epsilon, out, NO_DROPOUT)
    return out


def _parts(starts: Tensor) -> list[slice]:
    return [slice(start, end) for start, end in pairwise(starts.tolist())]


def _layer(x: Tensor, layer: DecoderLayer, row: _Row, wanted: Tensor | None = None) -> Tensor:
    """y [M, H] from x [M, H], whose memory it takes; with wanted [P], only those tokens' y [P, H]."""
    qkv = layer.qkv.predict(_normed(x, layer, 0, row.ops))
    turned = layer.heads + layer.kv_heads
    q_and_k = qkv.view(len(x), -1, layer.head_size)[:, :turned]
    row.ops.rotate(q_and_k, row.cos, row.sin, q_and_k)
    attended = _attend(qkv, layer, row)
    del qkv, q_and_k
    if wanted is not None:
        x, attended = x[wanted], attended[wanted]
    inputs = layer.o.buffer(attended)
    row.ops.copy_drop(attended, inputs[:, : layer.o.in_features], NO_DROPOUT)
    del attended
    layer.o.predict(inputs, onto=x)
    gate_up = layer.gate_up.predict(_normed(x, layer, 1, row.ops))
    inputs = layer.down.buffer(x)
    row.ops.swiglu(gate_up, inputs[:, : layer.down.in_features], NO_DROPOUT)
    del gate_up
    return layer.down.predict(inputs, onto=x)


def _normed(x: Tensor, layer: DecoderLayer, site: int, ops: ModuleType) -> Tensor:
    """RMSNorm(x) in a buffer for the projections that follow it."""
    group, norm = (layer.qkv, layer.gate_up)[site], layer.norms[site]
    inputs = group.buffer(x)
    ops.rms_norm(x, norm.weight, norm.variance_epsilon, inputs[:, : group.in_features], NO_DROPOUT)
    return inputs


def _attend(qkv: Tensor, layer: DecoderLayer, row: _Row) -> Tensor:
    """Attention [M, heads * D] of every run over its keys, each query over the keys up to itself."""
    trees, kv_heads = row.trees, layer.kv_heads
    every = qkv.view(len(qkv), -1, layer.head_size)  # [M, heads + 2 * kv_heads, D]
    q, pairs = every[:, : layer.heads], every[:, layer.heads :]
    if trees.keys is not None:
        pairs = pairs.index_select(0, trees.keys)
    k, v = pairs[:, :kv_heads], pairs[:, kv_heads:]
    if has_flash(q):
        # Where a run has more keys than queries, this kernel lets the last query see the last key.
        starts = trees.query_starts, trees.key_starts
        out, *_ = torch.ops.aten._flash_attention_forward(q, k, v, *starts, *row.longest, 0.0, True, False)
        return out.flatten(1)  # type: ignore[no-any-return]
    return torch.cat([_attend_run(q[queries], k[keys], v[keys]) for queries, keys in row.runs])


def _attend_run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention [m, heads * D] of one run: q [m, heads, D] over k and v [n, kv_heads, D], n >= m."""
    mask = torch.ones(len(q), len(k), dtype=torch.bool, device=q.device).tril(len(k) - len(q))
    q, k, v = (t.transpose(0, 1)[None] for t in (q, k, v))
    gqa = q.shape[1] != k.shape[1]
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=gqa)
    return out[0].transpose(0, 1).flatten(1)
