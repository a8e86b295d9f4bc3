"""`elementwise.softmax_loss_` as a Triton kernel: a program takes one token's logits."""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _softmax_loss_kernel(logits, targets, losses, V: tl.constexpr, IGNORE: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    target = tl.load(targets + row)
    start = logits + row.to(tl.int64) * V
    column = tl.arange(0, BLOCK)
    top = tl.full([BLOCK], -float("inf"), tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    for first in range(0, V, BLOCK):
        score = tl.load(start + first + column, mask=first + column < V, other=-float("inf")).to(tl.float32)
        higher = tl.maximum(top, score)
        # A lane that has seen nothing yet is -inf - -inf; its total is 0, so any finite factor will do.
        shift = tl.where(higher == -float("inf"), 0.0, higher)
        total = total * tl.exp(top - shift) + tl.exp(score - shift)
        top = higher
    peak = tl.max(top, 0)
    normaliser = peak + tl.log(tl.sum(total * tl.exp(top - peak), 0))
    used = target != IGNORE
    answer = tl.load(start + tl.where(used, target, 0)).to(tl.float32)
    tl.store(losses + row, tl.where(used, normaliser - answer, 0.0))
    tl.debug_barrier()  # every thread has read the answer's logit before any thread overwrites it
    for first in range(0, V, BLOCK):
        inside = first + column < V
        score = tl.load(start + first + column, mask=inside, other=0.0).to(tl.float32)
        gradient = tl.exp(score - normaliser) - tl.where(first + column == target, 1.0, 0.0)
        tl.store(start + first + column, tl.where(used, gradient, 0.0), mask=inside)


def softmax_loss_(logits: Tensor, targets: Tensor, ignore: int) -> Tensor:
    losses = logits.new_empty(logits.shape[0], dtype=torch.float32)
    _softmax_loss_kernel[(logits.shape[0],)](
        logits, targets, losses, logits.shape[1], ignore, BLOCK=4096, num_warps=8
    )
    return losses.sum()
