"""Cross-entropy straight from hidden states: the logits exist only one slice of tokens at a time."""

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from taigi_lightning.fast_path.output_head import OutputHead
from taigi_lightning.fast_path.vocabulary import parts_of
from taigi_lightning.kernels import elementwise
from taigi_lightning.kernels.products import float32_product
from taigi_lightning.kernels.triton_support import triton_fault
from taigi_lightning.planning.activation_plan import HEAD_ROWS, slice_tokens
from taigi_lightning.tasks.prompts import IGNORE


class _LinearCrossEntropySum(torch.autograd.Function):
    """Computes the gradients in the forward pass, so each slice of logits is made once and dropped."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        rows: Tensor | None,
        targets: Tensor,
        head: OutputHead,
    ) -> Tensor:
        grad_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        grad_bias = None if bias is None else torch.zeros_like(bias, dtype=torch.float32)
        grad_rows = torch.zeros_like(rows) if rows is not None and ctx.needs_input_grad[3] else None
        total = hidden.new_zeros((), dtype=torch.float32)
        # A cap's gradient is another such tensor. All slices share one's memory: a new one would be made before the
        # last is dropped, and of a large vocabulary that is the largest tensor of a step.
        each = slice_tokens(weight.shape[0]) // (1 if head.cap is None else 2)
        memory = hidden.new_empty(min(each, hidden.shape[0]), weight.shape[0])
        for start in range(0, hidden.shape[0], each):
            part = slice(start, start + each)
            # (S, V), overwritten with its own gradient
            logits = torch.mm(hidden[part], weight.t(), out=memory[: hidden[part].shape[0]])
            if bias is not None:
                logits += bias
            slope = _finish(logits, head)
            total += _operations(logits).softmax_loss_(logits, targets[part], IGNORE)
            if slope is not None:
                logits *= slope
            if grad_hidden is not None:
                torch.mm(logits, weight, out=grad_hidden[part])
            if grad_weight is not None:
                grad_weight += logits.t() @ hidden[part]
            if grad_rows is not None:
                grad_rows += float32_product(logits[:, head.ids].t(), hidden[part])
            if grad_bias is not None and ctx.needs_input_grad[2]:
                grad_bias += logits.sum(0, dtype=torch.float32)
        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias, grad_rows)
        ctx.weight_dtype = weight.dtype
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, *others, rows = ctx.saved_tensors
        if grad_hidden is not None:
            grad_hidden.mul_(grad.to(grad_hidden.dtype))  # in place: autograd refuses a second pass
        scaled = (None if g is None else (g * grad).to(ctx.weight_dtype) for g in others)
        return grad_hidden, *scaled, None if rows is None else rows * grad, None, None


class _StreamedLossSum(torch.autograd.Function):
    """The same with a frozen head (V, H) on the host, whose parts pass by twice: all tokens' normalisers first, then
    the gradient. It is added up in float32, part after part, so it is rounded otherwise than in one product."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, targets: Tensor, head: OutputHead) -> Tensor:
        normaliser = hidden.new_full(targets.shape, -torch.inf, dtype=torch.float32)
        answer = torch.zeros_like(normaliser)
        for part, weight in parts_of(head.weight, hidden.device, HEAD_ROWS):
            scores = head.finish_(_scores(hidden, weight, head.bias, part)).float()
            normaliser = torch.logaddexp(normaliser, scores.logsumexp(-1))
            answer += scores.mul_(_answers(targets, part, scores)).sum(-1)
        used = targets != IGNORE
        if ctx.needs_input_grad[0]:
            total = torch.zeros_like(hidden, dtype=torch.float32)
            for part, weight in parts_of(head.weight, hidden.device, HEAD_ROWS):
                logits = _scores(hidden, weight, head.bias, part)
                slope = _finish(logits, head)
                grad = logits.float().sub_(normaliser[:, None]).exp_()
                grad.sub_(_answers(targets, part, grad).to(grad.dtype)).mul_(used[:, None])
                grad = grad.to(logits.dtype)
                total += float32_product(grad if slope is None else grad.mul_(slope), weight)
            ctx.save_for_backward(total.to(hidden.dtype))
        return torch.where(used, normaliser - answer, 0.0).sum()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (found,) = ctx.saved_tensors
        return found.mul_(grad.to(found.dtype)), None, None


def _scores(hidden: Tensor, weight: Tensor, bias: Tensor | None, part: slice) -> Tensor:
    """Products (M, rows) with a part of the head, before its scale and cap."""
    scores = hidden @ weight.t()
    return scores if bias is None else scores.add_(bias[part])


def _answers(targets: Tensor, part: slice, like: Tensor) -> Tensor:
    """(M, rows) bool: which word of this part is a token's answer."""
    words = torch.arange(part.start, part.start + like.shape[1], device=targets.device)
    return words == targets[:, None]


def _finish(logits: Tensor, head: OutputHead) -> Tensor | float | None:
    """Scale and cap products in place; what their gradient is to be multiplied with, None for nothing."""
    head.finish_(logits)
    if head.cap is None:
        return head.scale if head.scale != 1.0 else None
    return (logits / head.cap).square_().neg_().add_(1.0).mul_(head.scale)  # of cap * tanh(scale * x / cap)


def _operations(like: Tensor) -> ModuleType:
    if not like.is_cuda or triton_fault() is not None:
        return elementwise
    from taigi_lightning.kernels import elementwise_triton

    return elementwise_triton


def linear_cross_entropy_sum(hidden: Tensor, head: OutputHead | Tensor, labels: Tensor) -> Tensor:
    """Sum of the next-token losses, without holding all logits and without waiting for a GPU.

    Args:
        hidden: last hidden states, (B, T, H).
        head: from `output_head`, or a weight (V, H) alone; hidden states of another dtype are cast to its own.
        labels: (B, T) int64, unshifted; position t is predicted from t - 1, -100 is left out.

    Returns:
        The summed loss, float32 (), differentiable in hidden, and in the head's weight, bias and rows.
    """
    head = head if isinstance(head, OutputHead) else OutputHead(head)
    # Shifting the labels, not the hidden states, copies nothing large: a row's last token predicts nothing.
    targets = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORE).reshape(-1).to(hidden.device)
    rows = hidden.reshape(-1, hidden.shape[-1]).to(head.weight.dtype)
    # Autocast would change the slices' dtype between the two products.
    with torch.autocast(hidden.device.type, enabled=False):
        if head.on_host:
            streamed: Tensor = _StreamedLossSum.apply(rows, targets, head)  # type: ignore[no-untyped-call]
            return streamed
        loss: Tensor = _LinearCrossEntropySum.apply(  # type: ignore[no-untyped-call]
            rows, head.weight, head.bias, head.rows, targets, head
        )
    return loss
