"""Causal attention inside the documents of a packed block, forward and backward, without autograd."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor


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
    device, positions = position_ids.device, position_ids.cpu()
    begins = torch.ones_like(positions, dtype=torch.bool)
    begins[:, 1:] = positions[:, 1:] != positions[:, :-1] + 1
    first = begins.view(-1).nonzero().view(-1).to(torch.int32)
    starts = torch.cat([first, first.new_tensor([positions.numel()])])
    longest = int((starts[1:] - starts[:-1]).max())
    whole_rows = first.numel() == positions.shape[0]
    return Documents(starts, longest, whole_rows, begins).to(device)


def has_flash(q: Tensor) -> bool:
    """Whether flash attention computes with q (..., D)."""
    return (
        q.is_cuda
        and q.dtype != torch.float32
        and q.shape[-1] <= 256
        and torch.cuda.get_device_capability(q.device) >= (8, 0)
    )


def _has_cudnn(q: Tensor, k: Tensor) -> bool:
    """Hopper's own kernels: half the time of flash attention there, for whole rows with as many k as q heads."""
    return (
        torch.cuda.get_device_capability(q.device) >= (9, 0)
        and torch.backends.cudnn.is_available()  # type: ignore[no-untyped-call]
        and q.shape == k.shape
        and q.shape[-1] in (64, 128)
    )


def attend(q: Tensor, k: Tensor, v: Tensor, documents: Documents) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Attention output (B, T, heads, D) and what its backward wants; k and v may have fewer heads."""
    if not has_flash(q):
        return _masked(q, k, v, documents), ()
    if documents.whole_rows and _has_cudnn(q, k):
        heads_first = [t.transpose(1, 2) for t in (q, k, v)]
        out, lse, *_, seed, offset, _ = torch.ops.aten._scaled_dot_product_cudnn_attention(
            *heads_first, None, True, 0.0, True, False
        )
        return out.transpose(1, 2).contiguous(), (lse, seed, offset)
    if documents.whole_rows:
        out, lse, seed, offset, _ = torch.ops.aten._flash_attention_forward(
            q, k, v, None, None, q.shape[1], k.shape[1], 0.0, True, False
        )
        return out, (lse, seed, offset)
    size, longest = documents.starts, documents.longest
    out, lse, seed, offset, _ = torch.ops.aten._flash_attention_forward(
        q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1), size, size, longest, longest, 0.0, True, False
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
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k, v from the output's; extra is what `attend` returned."""
    if not extra:
        with torch.enable_grad():
            leaves = [t.detach().requires_grad_() for t in (q, k, v)]
            again = _masked(leaves[0], leaves[1], leaves[2], documents)
        dq, dk, dv = torch.autograd.grad(again, leaves, grad)
        return dq, dk, dv
    lse, seed, offset = extra
    if documents.whole_rows and _has_cudnn(q, k):
        heads_first = [t.transpose(1, 2) for t in (grad, q, k, v, out)]
        gradients = torch.ops.aten._scaled_dot_product_cudnn_attention_backward(
            *heads_first, lse, seed, offset, None, None, None, q.shape[1], k.shape[1], 0.0, True
        )
        dq, dk, dv = (t.transpose(1, 2) for t in gradients)
        return dq, dk, dv
    if documents.whole_rows:
        dq, dk, dv = torch.ops.aten._flash_attention_backward(
            grad, q, k, v, out, lse, None, None, q.shape[1], k.shape[1], 0.0, True, seed, offset
        )
        return dq, dk, dv
    size, longest = documents.starts, documents.longest
    flat = [t.flatten(0, 1) for t in (grad, q, k, v, out)]
    dq, dk, dv = torch.ops.aten._flash_attention_backward(
        *flat, lse, size, size, longest, longest, 0.0, True, seed, offset
    )
    return dq.view(q.shape), dk.view(k.shape), dv.view(v.shape)


def _masked(q: Tensor, k: Tensor, v: Tensor, documents: Documents) -> Tensor:
    numbers = documents.begins.view(-1).cumsum(0).view(documents.begins.shape).to(q.device)
    mask = numbers[:, None, :, None] == numbers[:, None, None, :]
    mask = mask & torch.ones(mask.shape[-2:], dtype=torch.bool, device=mask.device).tril()
    out = torch.nn.functional.scaled_dot_product_attention(
        q.transpose(1, 2),
        k.transpose(1, 2),
        v.transpose(1, 2),
        attn_mask=mask,
        enable_gqa=q.shape[2] != k.shape[2],
    )
    return out.transpose(1, 2).contiguous()
