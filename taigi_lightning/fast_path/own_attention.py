"""The attention of transformers' own layers through ours, where a mask says no more than documents and a window.

For packed documents transformers makes a whole mask (B, 1, T, T), which no flash kernel takes; so all pairs of a row's
tokens are computed, and k and v repeated for every query head. Which documents and which window a mask has is read from
the mask itself, whatever made it. Then it is made again of these: only where both are equal, to the last element, does
our attention, which needs no mask, compute instead. Chunks are read as documents; padding, a prefix that sees itself
both ways or any other rule of a model's own is not equal, and goes through transformers' function as before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.weak import WeakTensorKeyDictionary
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface

from taigi_lightning.fast_path.attention import (
    Documents,
    Scores,
    attend,
    attend_backward,
    documents_from,
    has_flash,
)
from taigi_lightning.fast_path.own_names import mean_instead

NAME = "ALL_ATTENTION_FUNCTIONS"
# What layers tell every attention function, and transformers' function for SDPA leaves aside where it has a mask.
LEFT_ASIDE = frozenset(("is_causal", "sliding_window", "position_ids", "cache_position"))
# Pairs of a mask, or those of one row: the memory that this takes may be all that is left.
READ_AT_ONCE = 2**26
MOST_DOCUMENTS = 2**16 - 1  # flash attention's grid has no more blocks for them
ALIGNED = 8  # elements of 16 bits that flash attention reads at once


class Pattern(NamedTuple):
    """What a mask says: where documents lie, and how many keys a query sees, itself included (None: all)."""

    documents: Documents
    window: int | None


def read_mask(mask: Tensor) -> Pattern | None:
    """The documents and the window that make just this mask (B, T, T), bool, true where a query sees a key.

    None if none do, or too many documents for a kernel. A document begins where a token does not see the one before it;
    the window is what the token that sees most sees. Waits once for a GPU.
    """
    rows, columns, _ = mask.shape
    begins = torch.ones(rows, columns, dtype=torch.bool, device=mask.device)
    begins[:, 1:] = ~mask.diagonal(-1, 1, 2)
    numbers, most = begins.cumsum(1), mask.sum(-1).max().clamp(min=1)
    places = torch.arange(columns, device=mask.device)
    back = places[:, None] - places
    within = (back >= 0) & (back < most)
    at_once = max(1, READ_AT_ONCE // columns**2)
    parts = zip(torch.split(numbers, at_once), torch.split(mask, at_once), strict=True)
    alike = [((n[:, :, None] == n[:, None]) & within).eq(part).all() for n, part in parts]
    read = torch.cat([begins.flatten(), torch.stack([most, torch.stack(alike).all()])]).cpu()
    window, equal = read[-2:].tolist()
    if not equal or read[:-2].sum() > MOST_DOCUMENTS:
        return None
    documents = documents_from(read[:-2].bool().view(rows, columns)).to(mask.device)
    return Pattern(documents, window if window < documents.longest else None)


class Masks:
    """What masks say, each read once a pass: all its layers are given the same ones, and again when recomputed."""

    def __init__(self) -> None:
        self.forget()

    def forget(self, *_: Any) -> None:
        """Read every mask anew, as a hook before a model's pass: not all ways to write to one are counted."""
        if not torch.compiler.is_compiling():
            self._known: Any = WeakTensorKeyDictionary()

    def __reduce__(self) -> tuple[type[Masks], tuple[()]]:
        return Masks, ()

    def read(self, mask: Tensor) -> Pattern | None:
        """`read_mask` of a mask (B, 1, T, T), anew if it has been written to since."""
        known: tuple[int, Pattern | None] | None = self._known.get(mask)
        if known is None or known[0] != mask._version:
            known = self._known[mask] = mask._version, read_mask(mask[:, 0])
        return known[1]


class _Attention(torch.autograd.Function):
    """Attention output (B, T, heads, D) of q, and of k and v, which may have fewer heads."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, documents: Documents, scores: Scores) -> Tensor:
        with torch.autocast(q.device.type, enabled=False):
            out, extra = attend(q, k, v, documents, scores)
        out = out.contiguous()
        ctx.save_for_backward(q, k, v, out, *extra)
        ctx.documents, ctx.scores = documents, scores
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        q, k, v, out, *extra = ctx.saved_tensors
        with torch.autocast(q.device.type, enabled=False):
            grads = attend_backward(grad.contiguous(), q, k, v, out, tuple(extra), ctx.documents, ctx.scores)
        return *grads, None, None


def fuse_attention(module: Any, masks: Masks) -> bool:
    """Let a module whose forward pass looks up transformers' attention functions compute SDPA's as here, in place.

    Returns:
        False if it does not look them up, or has functions of its own.
    """
    return mean_instead(module, NAME, lambda functions: _instead(functions, masks))


def _instead(functions: Any, masks: Masks) -> AttentionInterface | None:
    """Transformers' own table of attention functions, but for SDPA's."""
    return _Functions(masks) if functions is ALL_ATTENTION_FUNCTIONS else None


class _Functions(AttentionInterface):  # type: ignore[misc]
    """What is registered with transformers now or later, but for SDPA's function."""

    def __init__(self, masks: Masks) -> None:
        super().__init__()
        self._sdpa = _attention_by(masks)

    def __getitem__(self, name: str) -> Any:
        return self._sdpa if name == "sdpa" else ALL_ATTENTION_FUNCTIONS[name]


def _attention_by(masks: Masks) -> Callable[..., tuple[Tensor, Tensor | None]]:
    """What stands in for `sdpa_attention_forward`."""

    def attention(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Any,
        *args: Any,
        **options: Any,
    ) -> tuple[Tensor, Tensor | None]:
        plain, given = ALL_ATTENTION_FUNCTIONS["sdpa"], (query, key, value)
        found = None
        if plain is sdpa_attention_forward and not args and _is_plain(options):
            found = _by_documents(module, given, attention_mask, options.get("scaling"), masks)
        if found is None:
            return plain(module, *given, attention_mask, *args, **options)  # type: ignore[no-any-return]
        return found, None

    return attention


def _is_plain(options: dict[str, Any]) -> bool:
    """Whether mask and one factor alone decide on scores: no dropout, bias, cap or sink, nor what is unknown here."""
    return not options.get("dropout") and all(
        value is None or value is False or name in LEFT_ASIDE or (name == "scaling" and _is_number(value))
        for name, value in options.items()
        if name != "dropout"
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, float | int)


def _by_documents(
    module: Any, given: tuple[Tensor, Tensor, Tensor], mask: Any, scale: float | None, masks: Masks
) -> Tensor | None:
    """Attention output (B, T, heads, D) of q (B, heads, T, D), k and v, or None where transformers' own is to compute.

    A GPU without flash attention is better off with transformers', which asks for less memory there.
    """
    if _recorded(given[0]) or not _fits(module, *given, mask):
        return None
    q, k, v = (_as_computed(tensor) for tensor in given)
    computes = q.dtype == k.dtype == v.dtype and (q.device.type == "cpu" or has_flash(q))
    pattern = masks.read(mask) if computes else None
    if pattern is None:
        return None
    scores = Scores(q.shape[-1] ** -0.5 if scale is None else scale, pattern.window)
    out: Tensor = _Attention.apply(q, k, v, pattern.documents, scores)  # type: ignore[no-untyped-call]
    return out


def _recorded(q: Tensor) -> bool:
    """Whether what is computed now is recorded and will be computed again with other masks, which nobody reads then."""
    capturing = q.is_cuda and torch.cuda.is_current_stream_capturing()
    traced: bool = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    return capturing or traced or torch.compiler.is_compiling()


def _fits(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any) -> bool:
    """Whether a mask may be read, and whether heads of q, k and v are as many and as large as `attend` takes them."""
    if any(type(t) is not Tensor for t in (query, key, value, mask)) or query.dim() != 4 or key.dim() != 4:
        return False
    (rows, heads, columns, size), repeated = query.shape, max(getattr(module, "num_key_value_groups", 1), 1)
    return (
        columns > 1
        and mask.dtype == torch.bool
        and mask.shape == (rows, 1, columns, columns)
        and key.shape == value.shape == (rows, key.shape[1], columns, size)
        and key.shape[1] * repeated == heads
        and query.device == key.device == value.device == mask.device
        and not mask.is_inference()  # it may be written to unnoticed
    )


def _as_computed(x: Tensor) -> Tensor:
    """x (B, heads, T, D) as (B, T, heads, D), in what autocast has SDPA compute in, as flash attention reads it."""
    kind = x.device.type
    if torch.is_autocast_enabled(kind) and x.dtype in (torch.float32, torch.float16, torch.bfloat16):
        x = x.to(torch.get_autocast_dtype(kind))
    x = x.transpose(1, 2)
    sizes = (*x.stride()[:-1], x.storage_offset())
    return x.contiguous() if x.stride(-1) != 1 or any(size % ALIGNED for size in sizes) else x
