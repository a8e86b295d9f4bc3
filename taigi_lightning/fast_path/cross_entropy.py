"""Cross-entropy straight from hidden states: the logits exist only one slice of tokens at a time."""

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from taigi_lightning.kernels import elementwise
from taigi_lightning.planning.activation_plan import SLICE_TOKENS
from taigi_lightning.tasks.prompts import IGNORE


class _LinearCrossEntropySum(torch.autograd.Function):
    """Computes the gradients in the forward pass, so each slice of logits is made once and dropped."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        need_hidden, need_weight = ctx.needs_input_grad[:2]
        grad_hidden = torch.empty_like(hidden) if need_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if need_weight else None
        total = hidden.new_zeros((), dtype=torch.float32)
        for start in range(0, hidden.shape[0], SLICE_TOKENS):
            part = slice(start, start + SLICE_TOKENS)
            logits = hidden[part] @ weight.t()  # (S, V), overwritten with its own gradient
            total += _operations(logits).softmax_loss_(logits, targets[part], IGNORE)
            if grad_hidden is not None:
                torch.mm(logits, weight, out=grad_hidden[part])
            if grad_weight is not None:
                grad_weight += logits.t() @ hidden[part]
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.weight_dtype = weight.dtype
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_weight = ctx.saved_tensors
        if grad_hidden is not None:
            grad_hidden.mul_(grad.to(grad_hidden.dtype))  # in place: autograd refuses a second pass
        if grad_weight is not None:
            grad_weight = (grad_weight * grad).to(ctx.weight_dtype)
        return grad_hidden, grad_weight, None


def _operations(like: Tensor) -> ModuleType:
    if not like.is_cuda:
        return elementwise
    from taigi_lightning.kernels import elementwise_triton

    return elementwise_triton


def linear_cross_entropy_sum(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """Sum of the next-token losses, without holding all logits and without waiting for a GPU.

    Args:
        hidden: last hidden states, (B, T, H).
        weight: the output embedding, (V, H); hidden states of another dtype are cast to its own.
        labels: (B, T) int64, unshifted; position t is predicted from t - 1, -100 is left out.

    Returns:
        The summed loss, float32 (), differentiable in hidden and weight.
    """
    # Shifting the labels, not the hidden states, copies nothing large: a row's last token predicts nothing.
    targets = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORE).reshape(-1).to(hidden.device)
    rows = hidden.reshape(-1, hidden.shape[-1]).to(weight.dtype)
    # Autocast would change the slices' dtype between the two products.
    with torch.autocast(hidden.device.type, enabled=False):
        loss: Tensor = _LinearCrossEntropySum.apply(rows, weight, targets)  # type: ignore[no-untyped-call]
    return loss
