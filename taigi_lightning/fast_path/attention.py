"""Causal attention inside the documents of a packed block, forward and backward, without autograd."""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

# cuDNN's attention takes rows of so many tokens or more, in steps of so many: training blocks, hardly ever answers.
CUDNN_ROWS, CUDNN_STEP = 512, 64


@dataclass(frozen=True)
class Documents:
    """Where the documents of a block (B, T) lie once its rows are joined end to end.

    starts: (n + 1,) int32 on the block's device, the first token of each document and B * T.
    longest: tokens in the longest document. whole_rows: every row is one document.
    begins: (B, T) bool on the host, true where a document begins.
    """

    starts: Tensor
    longest: int
    whole_rows: bool
    begins: Tensor

    def to(self, device: torch.device) -> "Documents":
        """The same with `starts` on another device, without waiting for it; Lightning moves batches so."""
        return replace(self, starts=self.starts.to(device, non_blocking=True))


def find_documents(position_ids: Tensor) -> Documents:
    """Documents begin wherever position_ids (B, T) does not count on. Waits once for a GPU's copy."""
    positions = position_ids.cpu()
    begins = torch.ones_like(positions, dtype=torch.bool)
    begins[:, 1:] = positions[:, 1:] != positions[:, :-1] + 1
    return documents_from(begins).to(position_ids.device)


def documents_from(begins: Tensor) -> Documents:
    """Documents on the host, from what `Documents.begins` is; the first token of each row begins one."""
    first = begins.view(-1).nonzero().view(-1).to(torch.int32)
    starts = torch.cat([first, first.new_tensor([begins.numel()])])
    longest = int((starts[1:] - starts[:-1]).max())
    return Documents(starts, longest, first.numel() == begins.shape[0], begins)


class Scores(NamedTuple):
    """How a layer scores keys: the factor of q k^T, and how many keys a query sees, itself included (None: all)."""

    scale: float
    window: int | None = None

    def reach(self, longest: int) -> "Scores":
        """The same without a window that no document of that length fills."""
        return self if self.window is None or self.window < longest else Scores(self.scale)

    @property
    def flash_options(self) -> dict[str, Any]:
        """As flash attention takes them: keys to the left of a query's own, and to the right."""
        if self.window is None:
            return {"scale": self.scale}
        return {"scale": self.scale, "window_size_left": self.window - 1, "window_size_right": 0}


def has_flash(q: Tensor) -> bool:
    """Whether flash attention computes with q (..., D)."""
    return (
        q.is_cuda
        and q.dtype != torch.float32
        and q.shape[-1] <= 256
        and not 192 < q.shape[-1] <= 224  # not on every card
        and q.shape[-1] % 8 == 0
        and torch.cuda.get_device_capability(q.device) >= (8, 0)
    )


def _has_cudnn(q: Tensor, k: Tensor, scores: Scores) -> bool:
    """Hopper's own kernels: half to two thirds of flash attention's time there, for whole rows without a window.

    Fewer k than q heads, and heads of 256, were measured on Hopper alone. They make a plan for each new length, in a
    tenth of a second and sometimes in more than one: rows of any odd length are flash attention's. They add the
    gradients of q in the order in which blocks happen to finish, so where PyTorch was told to be deterministic
    (`trainer.deterministic`) flash attention takes over, which then keeps to one order.
    """
    capability = torch.cuda.get_device_capability(q.device)
    return (
        capability >= (9, 0)
        and not torch.are_deterministic_algorithms_enabled()
        and torch.backends.cudnn.is_available()  # type: ignore[no-untyped-call]
        and scores.window is None
        and q.shape[1] >= CUDNN_ROWS
        and q.shape[1] % CUDNN_STEP == 0
        and (q.shape[-1] in (64, 128) or (q.shape[-1] == 256 and capability == (9, 0)))
        and (q.shape == k.shape or capability == (9, 0))
    )


def attend(
    q: Tensor, k: Tensor, v: Tensor, documents: Documents, scores: Scores
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Attention output (B, T, heads, D) and what its backward wants; k and v may have fewer heads."""
    if not has_flash(q):
        return _masked(q, k, v, documents, scores), ()
    scores = scores.reach(documents.longest)
    if documents.whole_rows and _has_cudnn(q, k, scores):
        heads_first = [t.transpose(1, 2) for t in (q, k, v)]
        out, lse, *_, seed, offset, _ = torch.ops.aten._scaled_dot_product_cudnn_attention(
            *heads_first, None, True, 0.0, True, False, scale=scores.scale
        )
        return out.transpose(1, 2).contiguous(), (lse, seed, offset)
    options = scores.flash_options
    if documents.whole_rows:
        out, lse, seed, offset, _ = torch.ops.aten._flash_attention_forward(
            q, k, v, None, None, q.shape[1], k.shape[1], 0.0, True, False, **options
        )
        return out, (lse, seed, offset)
    size, longest = documents.starts, documents.longest
    flat = [t.flatten(0, 1) for t in (q, k, v)]
    out, lse, seed, offset, _ = torch.ops.aten._flash_attention_forward(
        *flat, size, size, longest, longest, 0.0, True, False, **options
    )
    return out.view(q.shape), (lse, seed, offset)


def attend_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    extra: tuple[Tensor, ...],
    documents: Documents,
    scores: Scores,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k, v from the output's; extra is what `attend` returned."""
    if not extra:
        with torch.enable_grad():
            leaves = [t.detach().requires_grad_() for t in (q, k, v)]
            again = _masked(leaves[0], leaves[1], leaves[2], documents, scores)
        dq, dk, dv = torch.autograd.grad(again, leaves, grad)
        return dq, dk, dv
    lse, seed, offset = extra
    scores = scores.reach(documents.longest)
    if documents.whole_rows and _has_cudnn(q, k, scores):
        heads_first = [t.transpose(1, 2) for t in (grad, q, k, v, out)]
        gradients = torch.ops.aten._scaled_dot_product_cudnn_attention_backward(
            *heads_first, lse, seed, offset, None, None, None, q.shape[1], k.shape[1], 0.0, True,
            scale=scores.scale,
        )  # fmt: skip
        dq, dk, dv = (t.transpose(1, 2) for t in gradients)
        return dq, dk, dv
    options = scores.flash_options
    if documents.whole_rows:
        dq, dk, dv = torch.ops.aten._flash_attention_backward(
            grad, q, k, v, out, lse, None, None, q.shape[1], k.shape[1], 0.0, True, seed, offset, **options
        )
        return dq, dk, dv
    size, longest = documents.starts, documents.longest
    flat = [t.flatten(0, 1) for t in (grad, q, k, v, out)]
    dq, dk, dv = torch.ops.aten._flash_attention_backward(
        *flat, lse, size, size, longest, longest, 0.0, True, seed, offset, **options
    )
    return dq.view(q.shape), dk.view(k.shape), dv.view(v.shape)


def seen(queries: int, keys: int, window: int | None, device: torch.device) -> Tensor:
    """(queries, keys) bool: which keys each query sees, if the last query is the last key."""
    mask = torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)
    return mask if window is None else mask.triu(keys - queries - window + 1)


def _masked(q: Tensor, k: Tensor, v: Tensor, documents: Documents, scores: Scores) -> Tensor:
    numbers = documents.begins.view(-1).cumsum(0).view(documents.begins.shape).to(q.device)
    mask = numbers[:, None, :, None] == numbers[:, None, None, :]
    mask = mask & seen(q.shape[1], q.shape[1], scores.window, q.device)
    out = torch.nn.functional.scaled_dot_product_attention(
        q.transpose(1, 2),
        k.transpose(1, 2),
        v.transpose(1, 2),
        attn_mask=mask,
        scale=scores.scale,
        enable_gqa=q.shape[2] != k.shape[2],
    )
    return out.transpose(1, 2).contiguous()
